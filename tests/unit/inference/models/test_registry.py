import dataclasses

import pytest

from inference.errors import ModelError
from inference.models.registry import MODELS, PypiFile, get_spec


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(ModelError, match=r"no model named 'u3net'.*u2netp") as caught:
        get_spec("u3net")
    assert all(name in str(caught.value) for name in MODELS)


def test_the_models_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        MODELS["other"] = get_spec("u2netp")  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_spec("u2netp").licence = "none"  # type: ignore[misc]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_says_what_it_is(name: str) -> None:
    spec = get_spec(name)
    assert spec.name == name
    assert spec.title
    assert spec.licence
    assert spec.licence_url.startswith("https://")
    assert spec.input_size >= 64
    assert spec.sha256 is None or len(spec.sha256) == 64


def test_the_one_that_needs_nobodys_permission() -> None:
    spec = get_spec("u2netp")
    assert isinstance(spec.source, PypiFile)
    assert spec.commercial_use
    assert spec.size_bytes == 4_574_861
