"""Both patch orders of a file are tried, whatever its own is."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.birefnet.engine import preprocess
from inference.models.birefnet.network import BiRefNet
from inference.models.birefnet.order_check import undecided_shares

CONFIG = PRESETS["birefnet-tiny"]


def test_each_order_is_measured_as_its_network_answers(
    tiny_state: dict[str, Tensor], tiny_networks: dict[PatchOrder, BiRefNet], tmp_path: Path
) -> None:
    save_file(tiny_state, tmp_path / "model.safetensors")
    photo = np.random.default_rng(20).integers(0, 256, (90, 120, 3), np.uint8)
    shares = undecided_shares(tmp_path, CONFIG, photo)
    pixels = preprocess(photo, CONFIG.input_size, torch.device("cpu"))
    for order, network in tiny_networks.items():
        with torch.inference_mode():
            matte = torch.sigmoid(network(pixels))
        expected = ((matte > 0.05) & (matte < 0.95)).float().mean().item()
        assert abs(shares[order] - expected) < 1e-3
    assert len(set(shares.values())) == len(PatchOrder)
