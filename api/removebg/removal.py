"""One removal, from the request's parameters to a finished job."""

import math
from dataclasses import dataclass
from typing import Final

from flask import Request

from api.envelope import request_id
from api.limits import take
from api.removebg.errors import RemoveBgError, of_type
from api.removebg.form import Form, read_form
from api.removebg.parameters import detected_type, is_mask, read_options
from api.removebg.sources import Picture, Pictures
from api.services import Services
from api.submission.submission import Submission
from tasks.jobs import Job, Priority, Status
from tasks.owners import Owner
from tasks.rates import Allowance, Rate

_MINUTE: Final = 60
_MILLION: Final = 1_000_000
_RETRY_AFTER_SECONDS: Final = 5
_MEGAPIXELS: Final = "megapixels"


@dataclass(frozen=True, slots=True)
class Removal:
    """Removes one background while its caller waits.

    Attributes:
        services: the shared ones.
        owner: who is asking.
    """

    services: Services
    owner: Owner

    def run(self, request: Request) -> tuple[Job, str | None]:
        """The finished job, and what the picture is said to show.

        Raises:
            RemoveBgError: a parameter or the picture will not do, or the time is up.
        """
        form = read_form(request)
        job = self.services.submit(self._submission(form), request_id())
        return self._finished(job), detected_type(form.texts)

    def _submission(self, form: Form) -> Submission:
        pictures = Pictures(self.services.inputs, self.services.settings.image_limits, self.owner)
        image = pictures.image(form)
        background = None if is_mask(form.texts) else pictures.background(form)
        most = self.services.settings.removebg_png_megapixels
        options = read_options(
            form.texts,
            background_sha256=background.sha256() if background else None,
            png_pixels=round(most * _MILLION) if most else None,
        )
        self._charge(image)
        return Submission(
            image=image.upload,
            options=options,
            background=background.upload if background else None,
            owner=self.owner,
            priority=Priority.HIGH,
        )

    def _charge(self, image: Picture) -> None:
        """Of the megapixels a minute, and of the key's own pictures a minute."""
        quota = self.services.settings.removebg_megapixels_per_minute
        allowances = [take()]
        if quota:
            # A picture of more than the quota costs all of it, or it would never get through.
            cost = min(max(1.0, image.megapixels), quota)
            allowances.append(take(cost, policy=_MEGAPIXELS, rate=Rate(quota, _MINUTE)))
        for allowance in allowances:
            if allowance is not None and not allowance.allowed:
                raise _too_fast(allowance)

    def _finished(self, job: Job) -> Job:
        seconds = self.services.settings.removebg_wait_seconds
        done = job if job.status.final else self.services.wait_final(job.task_id, seconds)
        if done is None or not done.status.final:
            raise RemoveBgError(
                "not_finished",
                "Send the same request again: it will be answered from the work that goes on.",
                status=503,
                retry_after=_RETRY_AFTER_SECONDS,
            )
        if done.status is not Status.SUCCEEDED:
            raise _failed(done)
        self._require_subject(done)
        return done

    def _require_subject(self, job: Job) -> None:
        least = self.services.settings.removebg_min_subject
        if job.coverage is not None and job.coverage < least:
            raise RemoveBgError(
                "unknown_foreground", f"Less than {least:.1%} of the pixels belong to a subject."
            )


def _too_fast(allowance: Allowance) -> RemoveBgError:
    return RemoveBgError(
        "rate_limit_exceeded",
        f"{allowance.rate.quota:g} {allowance.policy} a minute are allowed.",
        status=429,
        retry_after=math.ceil(allowance.retry_after),
    )


def _failed(job: Job) -> RemoveBgError:
    if job.error is None:
        return RemoveBgError("canceled", "The task was canceled.", status=503, retry_after=1)
    return of_type(job.error.type, job.error.message)
