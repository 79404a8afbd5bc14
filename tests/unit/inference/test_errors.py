"""The errors of inference: one root, and a stable code for each."""

import re

import pytest

from inference import errors
from inference.errors import CheckpointError, InferenceError, ModelError

CLASSES = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, Exception) and each.__module__ == errors.__name__
]


@pytest.mark.parametrize("error", CLASSES)
def test_each_has_the_root_and_a_code(error: type[InferenceError]) -> None:
    assert issubclass(error, InferenceError)
    if error is not InferenceError:
        assert re.fullmatch(r"[a-z_]+", error.code)


def test_a_checkpoint_that_is_wrong_makes_its_model_unavailable() -> None:
    assert issubclass(CheckpointError, ModelError)
    assert CheckpointError.code == ModelError.code == "model_unavailable"
