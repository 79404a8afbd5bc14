"""Presets: every registered BiRefNet has its network and patch order."""

from inference.models.birefnet.checkpoint import KNOWN_PATCH_ORDERS
from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.registry import MODELS


def test_every_registered_birefnet_has_its_network_and_patch_order() -> None:
    specs = [spec for spec in MODELS.values() if spec.engine == "birefnet"]
    assert {spec.name for spec in specs} == set(PRESETS)
    for spec in specs:
        assert spec.input_size == PRESETS[spec.name].input_size
        assert spec.patch_order_known_from, spec.name
        if spec.sha256 is not None:
            assert KNOWN_PATCH_ORDERS[spec.sha256] is spec.patch_order


def test_weights_of_before_the_change_of_order_are_read_in_the_old_one() -> None:
    old = {name for name, each in MODELS.items() if each.patch_order is PatchOrder("rmbg-2.0")}
    published = {"birefnet", "birefnet-lite", "birefnet-matting", "birefnet-portrait", "rmbg-2.0"}
    assert old == published
