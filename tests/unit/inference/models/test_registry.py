"""What the table of models says of each."""

from inference.models.birefnet.checkpoint import KNOWN_PATCH_ORDERS
from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.registry import MODELS, PypiFile, get_spec


def test_every_model_says_what_it_is() -> None:
    for name, spec in MODELS.items():
        assert spec.name == name
        assert spec.title
        assert spec.licence
        assert spec.licence_url.startswith("https://")
        assert spec.input_size >= 64
        assert not spec.next_better or get_spec(spec.next_better).commercial_use
        assert spec.sha256 is None or len(spec.sha256) == 64


def test_only_rmbg_2_0_needs_a_license_for_commerce_and_u2netp_nobodys_permission() -> None:
    assert [s.name for s in MODELS.values() if not s.commercial_use] == ["rmbg-2.0"]
    assert isinstance(get_spec("u2netp").source, PypiFile)


def test_every_birefnet_has_its_network_and_patch_order() -> None:
    specs = [spec for spec in MODELS.values() if spec.engine == "birefnet"]
    assert {spec.name for spec in specs} == set(PRESETS)
    for spec in specs:
        assert spec.input_size == PRESETS[spec.name].input_size
        assert spec.patch_order_known_from, spec.name
        if spec.sha256 is not None:
            assert KNOWN_PATCH_ORDERS[spec.sha256] is spec.patch_order
    # Weights of before the change of order are read in the old one.
    old = {spec.name for spec in specs if spec.patch_order is PatchOrder("rmbg-2.0")}
    published = {"birefnet", "birefnet-lite", "birefnet-matting", "birefnet-portrait", "rmbg-2.0"}
    assert old == published
