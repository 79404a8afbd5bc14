"""The names of tasks and queues; tasks are sent by name, so that no sender imports a worker."""

from typing import Final

#: Cut one picture out. Its one argument is the job's id.
REMOVE_TASK: Final = "rmbg.remove"

#: Housekeeping, and later the webhooks, on the I/O worker.
IO_QUEUE: Final = "io"


_MODEL: Final = "model."
_GPU: Final = "gpu."


def model_queue(model: str) -> str:
    """The queue that every worker of a model takes from."""
    return f"{_MODEL}{model}"


def gpu_queue(host: str, index: int) -> str:
    """The queue of one GPU (or of one CPU worker) alone."""
    return f"{_GPU}{host}.{index}"


def is_model_queue(queue: str) -> bool:
    """Whether what waits there needs a model."""
    return queue.startswith((_MODEL, _GPU))
