"""The picture of a request, and the one to go behind it: one of each, in any of three ways."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from api.errors import ApiError
from api.removebg.errors import RemoveBgError, of_type, translate
from api.removebg.form import Form
from api.submission.files import sha256_of
from api.submission.sources import Sources
from api.submission.submission import Upload
from inference.errors import InferenceError
from inference.probe import PREFIX_SIZE, ImageLimits, identify_format, probe_image
from tasks.owners import Owner

_IMAGES: Final = ("image_file", "image_file_b64", "image_url")
_BACKGROUNDS: Final = ("bg_color", "bg_image_url", "bg_image_file")
#: What the shared code calls them.
_OWN_NAMES: Final = {
    "image_file": "image",
    "image_file_b64": "image_b64",
    "image_url": "image_url",
    "bg_image_file": "background_image",
    "bg_image_url": "background_url",
}
_FAILED: Final = {"image_url": "failed_image_download", "bg_image_url": "failed_bg_download"}
_NO_IMAGE: Final = "This is no image of a known kind."
_MEGAPIXEL: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture whose header has been read."""

    upload: Upload
    megapixels: float

    def sha256(self) -> str:
        """The digest of its bytes."""
        return sha256_of(self.upload.stream)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Opens what a form brings or names.

    Attributes:
        sources: the shared ways in.
        limits: what is accepted, in pixels.
        owner: who is asking.
    """

    sources: Sources
    limits: ImageLimits
    owner: Owner

    def image(self, form: Form) -> Picture:
        """The picture.

        Raises:
            RemoveBgError: there is none, or more than one, or it cannot be had or used.
        """
        return self._open(form, source_name(form))

    def background(self, form: Form) -> Picture | None:
        """The picture to go behind the subject, if one is asked for.

        Raises:
            RemoveBgError: there is more than one background, or it cannot be had or used.
        """
        names = form.given(*_BACKGROUNDS)
        if len(names) > 1:
            raise RemoveBgError("multiple_bg_sources", f"Choose one of {', '.join(names)}.")
        if not names or names == ["bg_color"]:
            return None
        return self._open(form, names[0])

    def _open(self, form: Form, name: str) -> Picture:
        text = form.texts.get(name, "")
        if name in _FAILED:
            _check_url(name, text)
        if name == "image_file_b64":
            # In an urlencoded body, a plus sign that was not escaped stands for a space.
            text = text.strip().replace("base64, ", "base64,").replace(" ", "+")
        try:
            upload = self.sources.open(_OWN_NAMES[name], form.files.get(name) or text, self.owner)
        except ApiError as error:
            raise _cannot_be_had(name, error) from None
        return Picture(upload, self._megapixels(name, upload))

    def _megapixels(self, name: str, upload: Upload) -> float:
        try:
            if identify_format(upload.stream.read(PREFIX_SIZE)) is None:
                raise RemoveBgError("invalid_file_type", _NO_IMAGE)
            header = probe_image(upload.stream, self.limits)
        except InferenceError as error:
            raise of_type(error.code, f"{name}: {error}") from None
        return header.width * header.height / _MEGAPIXEL


def source_name(form: Form) -> str:
    """The one parameter that brings the picture.

    Raises:
        RemoveBgError: there is none, or more than one.
    """
    names = form.given(*_IMAGES)
    if not names:
        raise RemoveBgError("missing_source", f"Send one of {', '.join(_IMAGES)}.")
    if len(names) > 1:
        raise RemoveBgError("multiple_sources", f"Send only one of {', '.join(names)}.")
    return names[0]


def _check_url(name: str, text: str) -> None:
    try:
        address = urlsplit(text)
        usable = address.scheme in {"http", "https"} and bool(address.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise RemoveBgError(f"invalid_{name}", "Give an address that begins with https://.")


def _cannot_be_had(name: str, error: ApiError) -> RemoveBgError:
    kind = error.row.type
    if name in _FAILED and kind == "url_not_allowed":
        return RemoveBgError(f"invalid_{name}", str(error))
    if name in _FAILED and kind == "invalid_image":
        return RemoveBgError("invalid_file_type", str(error))
    if name in _FAILED and kind != "image_too_large":
        return RemoveBgError(_FAILED[name], str(error))
    if name == "image_file_b64" and kind == "invalid_parameter":
        return RemoveBgError("failed_to_read_image", str(error))
    return translate(error)
