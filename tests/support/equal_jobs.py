"""Submissions of one picture, a worker and an I/O worker in this process: for equal jobs."""

import io
from typing import Final

from flask.testing import FlaskClient

from api.app import create_app
from api.inputs import InputFile
from api.services import Services
from api.submission import Submission
from tasks.jobs.dedup import DuplicateCompleter
from tasks.jobs.job import Job
from tests.support.jobs import recorded
from tests.support.models import FakeModel
from tests.support.submissions import png
from tests.support.workers import make_runner

#: The picture that all jobs are about: 60 pixels wide, 40 high.
PICTURE: Final = png("orange", (60, 40))


class EqualJobs:
    """Submits the picture, and does what workers do."""

    def __init__(self, services: Services) -> None:
        self.services = services
        runtime = services.runtime
        self.redis, self.store = runtime.redis, runtime.job_store
        self.objects = runtime.object_store
        self.model = FakeModel()
        self._runner = make_runner(runtime, self.model)
        self._completer = DuplicateCompleter(
            self.redis, self.store, self.objects, runtime.dispatcher, runtime.router
        )

    def client(self) -> FlaskClient:
        return create_app(self.services).test_client()

    def submit(self, **parts: object) -> Job:
        """Submit the picture, with other parts if asked."""
        upload = InputFile(io.BytesIO(PICTURE), len(PICTURE), "a.png")
        made = Submission(image=upload, **parts)  # type: ignore[arg-type]
        return self.services.submissions.submit(made, "test").job

    def pair(self) -> tuple[Job, Job]:
        """Submit a primary and its duplicate."""
        return self.submit(), self.submit()

    def run(self, job: Job) -> None:
        """Run a job as a worker does that gets its message."""
        self._runner.run(job.task_id)

    def complete(self) -> int:
        """Complete the duplicates of primaries that have ended; returns how many these were."""
        return self._completer.run_once()

    def now(self, job: Job | str) -> Job:
        """Return the job's record as it is now."""
        return recorded(self.store, job)
