"""The names of tasks and queues; tasks are sent by name, so that no sender imports a worker."""

from typing import Final

#: Cut one picture out. Its one argument is the job's id.
REMOVE_TASK: Final = "rmbg.remove"

#: The I/O workers' queue. They keep house, and send the webhooks.
IO_QUEUE: Final = "io"


_MODEL: Final = "model."
_GPU: Final = "gpu."


def model_queue(model: str) -> str:
    """The queue that every worker of a model takes from."""
    return f"{_MODEL}{model}"


def gpu_queue(host: str, index: int) -> str:
    """The queue of one GPU (or of one CPU worker) alone."""
    return f"gpu.{host}.{index}"


#: Header of a message: its `dispatch_seq`, as in the record.
SENDING_HEADER: Final = "rmbg_dispatch_seq"

#: Beginning of the names of queues that one GPU alone takes from, and of models' shared ones.
GPU_PREFIX: Final = "gpu."
MODEL_PREFIX: Final = "model."


def is_model_queue(name: str) -> bool:
    """Does a queue carry removal jobs?"""
    return name.startswith((GPU_PREFIX, MODEL_PREFIX))
