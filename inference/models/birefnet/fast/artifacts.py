"""What torch.compile made, kept between starts of a worker.

The files hold code for this machine: whoever may write them may run code as the worker. They are
written for their owner alone, and a file of another user is not read.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import torch

from inference.models.birefnet.fast.network import FastBiRefNet
from inference.version import __version__


def reuse_artifacts(folder: Path | None, network: FastBiRefNet) -> bool:
    """Hand an earlier start's products to torch; False if there are none for this network."""
    if folder is None:
        return False
    file = _file(folder, network)
    try:
        if file.stat().st_uid != os.getuid():
            return False
        data = file.read_bytes()
    except OSError:
        return False
    return torch.compiler.load_cache_artifacts(data) is not None


def keep_artifacts(folder: Path | None, network: FastBiRefNet) -> None:
    """Keep this start's products; a folder that cannot be written costs the next start its time."""
    made = torch.compiler.save_cache_artifacts()
    if folder is None or made is None:
        return
    file = _file(folder, network)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as part:
            part.write(made[0])
        Path(part.name).replace(file)  # whole, or not at all
    except OSError:
        return


def _file(folder: Path, network: FastBiRefNet) -> Path:
    """Named by all that the products depend on."""
    pixels = network.example(1)
    where = str(pixels.device.type)
    if pixels.is_cuda:
        where = f"{torch.cuda.get_device_name(pixels.device)} {torch.version.cuda}"
    facts = (__version__, torch.__version__, where, pixels.dtype, network.config, network.side)
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()
    return folder / f"{digest[:32]}.compiled"
