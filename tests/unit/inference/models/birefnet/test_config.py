"""Presets: every registered BiRefNet has its network and patch order."""

from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.registry import MODELS


def test_every_registered_birefnet_has_its_network_and_patch_order() -> None:
    specs = [spec for spec in MODELS.values() if spec.engine == "birefnet"]
    assert {spec.name for spec in specs} == set(PRESETS)
    for spec in specs:
        assert spec.input_size == PRESETS[spec.name].input_size
        order = PatchOrder.RMBG_2_0 if spec.name == "rmbg-2.0" else PatchOrder.BIREFNET
        assert spec.patch_order is order
