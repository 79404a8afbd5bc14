"""What the table of models says of each."""

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
