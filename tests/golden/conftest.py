import os
from pathlib import Path

import pytest

from inference.models.base import MattingModel
from inference.models.load import load_model
from inference.models.registry import get_spec
from inference.models.weights import fetch_model


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regold", action="store_true", help="write the golden images again")


@pytest.fixture(scope="session")
def u2netp() -> MattingModel:
    """The real model, from the model folder; fetched when it is not there yet."""
    default = Path.home() / ".cache" / "rmbg-queue" / "models"
    spec = get_spec("u2netp")
    path = fetch_model(spec, Path(os.environ.get("RMBG_MODEL_DIR", default)))
    return load_model(spec, path, device="cpu", threads=2)
