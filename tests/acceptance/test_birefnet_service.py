"""A BiRefNet from a checkpoint on disk, in a worker of its own beside the service's."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from deploy.local import probes
from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.birefnet.golden import golden_state
from inference.models.load import load_model
from inference.models.registry import get_spec
from inference.options import Options
from inference.pipeline import remove_background
from tests.support.pictures import read_picture
from tests.support.servers import running
from tests.support.service import RunningService, worker_service

_HOST = "birefnet"
_MODEL = "birefnet-tiny"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, as the hub would lay one out."""
    folder = tmp_path_factory.mktemp("checkpoint")
    save_file(golden_state(PRESETS[_MODEL], "service"), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module", autouse=True)
def worker(service: RunningService, checkpoint: Path) -> Iterator[None]:
    env = service.env | {
        "RMBG_HOST": _HOST,
        "RMBG_MODEL": _MODEL,
        "RMBG_MODEL_PATH": str(checkpoint),
        "RMBG_PATCH_ORDER": "rmbg-2.0",
        "RMBG_PRECISION": "fp32",
        "RMBG_DEVICE": "cpu",
    }
    name = f"gpu0@{_HOST}"
    ready = probes.worker_ready(env["RMBG_REDIS_URL"], name)
    process = worker_service(name, f"gpu.{_HOST}.0,model.{_MODEL}", env, ready)
    with running(process, service.logs / f"{_HOST}.log", seconds=180):
        yield


def test_its_matte_comes_through_the_service_unchanged(
    service: RunningService, checkpoint: Path, coffee: Path
) -> None:
    task = service.client.wait(service.client.submit(coffee, {"model": _MODEL}))
    assert (task["model"], task["worker"]) == (_MODEL, f"gpu0@{_HOST}")
    served = np.asarray(read_picture(service.client.download(task["result_url"])))
    assert served.shape == (400, 600, 4)
    order = PatchOrder.COLUMNS_ROWS_COLORS
    model = load_model(get_spec(_MODEL), checkpoint, device="cpu", threads=2, patch_order=order)
    matte = np.asarray(read_picture(remove_background(coffee.read_bytes(), Options(), model).data))
    # Threads split sums in other ways, hence a level of 255.
    assert np.abs(matte[..., 3].astype(int) - served[..., 3]).max() <= 1
    assert len(np.unique(served[..., 3])) > 10, "a matte that differs from place to place"
