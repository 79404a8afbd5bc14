"""A request's parameters as texts and files, whatever the body's form. Empty means absent."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flask import Request
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import BadRequest

from api.removebg.errors import RemoveBgError


@dataclass(frozen=True, slots=True)
class Form:
    """What came, by name; parameters that remove.bg does not know are there too, and no harm."""

    texts: Mapping[str, str]
    files: Mapping[str, FileStorage]

    def __contains__(self, name: str) -> bool:
        return name in self.texts or name in self.files

    def given(self, *names: str) -> list[str]:
        """Those of the names that came with something in them."""
        return [name for name in names if name in self]


def read_form(request: Request) -> Form:
    """The parameters of a multipart, urlencoded or JSON body.

    Raises:
        RemoveBgError: it is JSON, and cannot be read.
    """
    if request.is_json:
        return Form(dict(_flatten(_json(request))), {})
    files = {name: file for name, file in request.files.items() if not _is_blank(file)}
    return Form({name: text for name, text in request.form.items() if text != ""}, files)


def _json(request: Request) -> Mapping[str, object]:
    try:
        body = request.get_json()
    except BadRequest:
        body = None
    if not isinstance(body, dict):
        raise RemoveBgError("bad_request", "The body must be one JSON object.")
    return body


def _flatten(body: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """JSON's values as a form would send them; a nested name as `outer[inner]`."""
    for name, value in body.items():
        if isinstance(value, bool):
            yield name, str(value).lower()
        elif isinstance(value, dict):
            yield from ((f"{name}[{inner}]", text) for inner, text in _flatten(value))
        elif value is not None and value != "":
            yield name, str(value)


def _is_blank(file: FileStorage) -> bool:
    """What a browser sends for a file that nobody chose."""
    return not file.filename and not file.stream.read(1) and file.stream.seek(0) == 0
