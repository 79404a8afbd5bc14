"""How long a job may take, by model and device."""

from typing import Final

from inference.errors import ModelError
from inference.models.registry import get_spec
from tasks.settings import Settings

#: Seconds after which a job's process is killed.
_SMALL_MODEL_SECONDS: Final = 30
_GPU_SECONDS: Final = 60
_CPU_SECONDS: Final = 180
#: An idle model's answer counts for so many probes at least, and for so many seconds more than a
#: job may keep the probe away.
_READY_PROBES: Final = 3
_LEAD_SECONDS: Final = 10
#: The soft limit comes at most so much before the hard one.
_SOFT_LEAD_SECONDS: Final = 10


def time_limit(settings: Settings) -> int:
    """The hard limit of one run, in seconds: the setting, or what the model and device need."""
    if settings.time_limit is not None:
        return settings.time_limit
    try:
        small = get_spec(settings.model).engine == "onnx"
    except ModelError:
        small = False
    if small:
        return _SMALL_MODEL_SECONDS
    return _GPU_SECONDS if settings.device.startswith("cuda") else _CPU_SECONDS


def soft_time_limit(settings: Settings) -> float:
    """When Python code is told to stop, some seconds before the process is killed."""
    hard = time_limit(settings)
    return hard - min(_SOFT_LEAD_SECONDS, hard / 3)


def ready_seconds(settings: Settings) -> float:
    """How long a model's answer counts: longer than a job may keep it from being asked."""
    return max(_READY_PROBES * settings.probe_seconds, time_limit(settings) + _LEAD_SECONDS)
