"""The errors of inference: one root, and a stable code for each."""

import re

from inference import errors
from inference.errors import CheckpointError, InferenceError, ModelError


def test_each_has_the_root_and_a_code() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    for error in (each for each in kinds if issubclass(each, Exception)):
        assert issubclass(error, InferenceError)
        assert re.fullmatch(r"[a-z_]+", error.code)
    # A checkpoint that is wrong makes its model unavailable.
    assert issubclass(CheckpointError, ModelError)
    assert CheckpointError.code == ModelError.code == "model_unavailable"
