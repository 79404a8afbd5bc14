"""What the arithmetic of a network alone would cost at a device's peak."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch.utils.flop_counter import FlopCounterMode

from inference.models.birefnet.config import BiRefNetConfig
from inference.models.birefnet.measuring.clock import current, median_milliseconds
from inference.models.birefnet.network import BiRefNet

#: Dense half-precision tensor throughput by the makers' data sheets, TFLOP/s; the first name that
#: is part of the card's own counts.
_DATA_SHEET_TFLOPS: Mapping[str, float] = MappingProxyType(
    {
        "H200": 989.0,
        "H100": 989.0,
        "A100": 312.0,
        "L40S": 362.0,
        "L4": 121.0,
        "RTX 4090": 165.0,
        "T4": 65.0,
    }
)
_GEMM_SIDE: Mapping[str, int] = MappingProxyType({"cpu": 2048, "cuda": 8192})


@dataclass(frozen=True, slots=True)
class Peak:
    """What a device can do at most."""

    tflops: float
    #: Where the figure comes from.
    source: str

    def milliseconds(self, flops: int) -> float:
        """The time of so many operations."""
        return flops / self.tflops / 1e9


def find_peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """By the data sheet where there is one, else by a large matrix product."""
    if device.type == "cuda" and dtype is not torch.float32:
        card = torch.cuda.get_device_name(device)
        for name, tflops in _DATA_SHEET_TFLOPS.items():
            if name in card:
                return Peak(tflops, f"data sheet of the {name}")
    side = _GEMM_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    with current(device):
        took = median_milliseconds(lambda: left @ right, device, runs=5)
    return Peak(2 * side**3 / took / 1e9, f"measured on a {side}² matrix product")


def count_flops(config: BiRefNetConfig, batch: int, size: int) -> int:
    """Operations of one batch's matrix products and convolutions; nothing is computed.

    A multiply-add counts as two.
    """
    with torch.device("meta"):
        network, pictures = BiRefNet(config).eval(), torch.empty(batch, 3, size, size)
        with FlopCounterMode(display=False) as counter:
            network(pictures)
    return int(counter.get_total_flops())
