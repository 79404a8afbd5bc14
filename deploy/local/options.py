"""What a person chose for `rmbg up`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The command's options; a port of 0 means any free one.

    Attributes:
        port: of the API.
        flower_port: of Flower; None to do without it.
        data: folder of jobs, pictures and passwords.
        workers: model workers to run side by side.
        model: the model they serve; None for the setting's.
        redis_url: a Redis to use in place of an embedded Valkey; None for the setting's, if any.
        s3_endpoint: an object store to use in place of an embedded SeaweedFS; None for the
            setting's, if any. Its keys come from the settings.
        start_seconds: how long the whole start may take.
    """

    port: int = 8000
    flower_port: int | None = 5555
    data: Path = Path("data")
    workers: int = 1
    model: str | None = None
    redis_url: str | None = None
    s3_endpoint: str | None = None
    start_seconds: float = 120.0
