"""What one submission is, whoever makes it: a form, JSON, a batch, another API."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from inference.options import Options
from tasks.jobs import Priority
from tasks.owners import ANONYMOUS, Owner


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as it came.

    Attributes:
        stream: at its start, and seekable.
        length: of the stream, in bytes.
        file_name: as its sender calls it; may be empty, and is not to be trusted.
    """

    stream: BinaryIO
    length: int
    file_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One picture, and what is to be done with it. All of it has been checked but the pictures.

    Attributes:
        image: the picture.
        options: how the result is to look.
        background: the picture to be put behind the subject.
        owner: who submits it.
        model: name of a served model; None for the service's own.
        priority: how urgent it is.
        metadata: a JSON object that is echoed wherever the task is shown.
        webhook_url: who is to be told of the end.
        webhook_events: what they are to be told; empty for everything.
        expires_in: seconds; not begun by then, the task fails.
        cache: False neither reads nor writes the cache, and joins no running twin.
        batch_id: the batch that it belongs to.
    """

    image: Upload
    options: Options = field(default_factory=Options)
    background: Upload | None = None
    owner: Owner = ANONYMOUS
    model: str | None = None
    priority: Priority = Priority.NORMAL
    metadata: Mapping[str, Any] = field(default_factory=dict)
    webhook_url: str | None = None
    webhook_events: tuple[str, ...] = ()
    expires_in: float | None = None
    cache: bool = True
    batch_id: str | None = None
