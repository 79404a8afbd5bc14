"""What can go wrong with a checkpoint or a GPU, each with what to do about it in its message."""

from inference.errors import ModelError


class CheckpointError(ModelError):
    """The file of weights cannot be used."""


class CheckpointNotFoundError(CheckpointError):
    """There is no such file, or the folder holds no `model.safetensors`."""


class CheckpointFormatError(CheckpointError):
    """The file is not safetensors; most often a pickle, which could run code when read."""


class CheckpointTruncatedError(CheckpointError):
    """The file ends early: a download or a copy broke off."""


class CheckpointKeysError(CheckpointError):
    """Tensors are missing, or there are some that the network does not have."""


class CheckpointShapeError(CheckpointError):
    """A tensor has another shape than the network's."""


class CheckpointHashError(CheckpointError):
    """The file is not the one that was expected."""


class PatchOrderUnknownError(CheckpointError):
    """Nothing says in which order the checkpoint wants its image patches."""


class DeviceUnavailableError(ModelError):
    """The device that was asked for is not there."""


class PrecisionError(ModelError):
    """The precision is unknown, or too narrow for this checkpoint."""


class GpuOutOfMemoryError(ModelError):
    """The GPU's memory is full; the process can go on."""

    code = "gpu_out_of_memory"
    retryable = True


class GpuFaultError(ModelError):
    """CUDA failed in a way that lasts as long as the process."""

    code = "gpu_fault"
    retryable = True
