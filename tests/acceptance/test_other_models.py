"""Models of other kinds in workers beside the service's: their mattes come through unchanged."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from deploy.local import probes
from inference.models.base import MattingModel
from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.birefnet.golden import golden_state
from inference.models.load import load_model
from inference.models.registry import get_spec
from inference.options import Options
from inference.pipeline import remove_background
from tests.support.models import spec_of
from tests.support.onnx_files import IsNetGraph
from tests.support.pictures import read_picture
from tests.support.servers import running
from tests.support.service import RunningService, worker_service


def _check_served(
    service: RunningService, photo: Path, here: MattingModel, env: dict[str, str], app: str
) -> None:
    """Start a worker of a model, and compare its cutout with that of the same model here."""
    host, model = env["RMBG_HOST"], env["RMBG_MODEL"]
    worker = f"gpu0@{host}"
    ready = probes.worker_ready(service.env["RMBG_REDIS_URL"], worker)
    queues = f"gpu.{host}.0,model.{model}"
    process = worker_service(worker, queues, service.env | env, ready, app=app)
    with running(process, service.logs / f"{host}.log", seconds=180):
        task = service.client.wait(service.client.submit(photo, {"model": model}))
        assert (task["model"], task["worker"], task["status"]) == (model, worker, "succeeded")
        served = np.asarray(read_picture(service.client.download(task["result_url"])))
    expected = remove_background(photo.read_bytes(), Options(), here).data
    matte = np.asarray(read_picture(expected))[..., 3].astype(int)
    # Threads split sums in other ways, hence a level of 255.
    assert np.abs(matte - served[..., 3]).max() <= 1
    assert len(np.unique(served[..., 3])) > 10, "a matte that differs from place to place"


def test_a_birefnet_from_a_checkpoint_on_disk(
    service: RunningService, coffee: Path, tmp_path: Path
) -> None:
    """A folder, as the hub would lay one out."""
    name = "birefnet-tiny"
    save_file(golden_state(PRESETS[name], "service"), tmp_path / "model.safetensors")
    order = PatchOrder.COLUMNS_ROWS_COLORS
    here = load_model(get_spec(name), tmp_path, device="cpu", threads=2, patch_order=order)
    env = {
        "RMBG_HOST": "birefnet",
        "RMBG_MODEL": name,
        "RMBG_MODEL_PATH": str(tmp_path),
        "RMBG_PATCH_ORDER": "rmbg-2.0",
        "RMBG_PRECISION": "fp32",
        "RMBG_DEVICE": "cpu",
    }
    _check_served(service, coffee, here, env, "tasks.app")


@pytest.mark.slow
def test_a_graph_of_isnets_shape_and_size_with_random_weights(
    service: RunningService, coffee: Path, tmp_path: Path
) -> None:
    path, spec = tmp_path / "isnet.onnx", get_spec("isnet-general-use")
    path.write_bytes(IsNetGraph().file)
    assert spec.size_bytes is not None
    assert abs(path.stat().st_size / spec.size_bytes - 1) < 0.02, "as large as the published file"
    stand_in = spec_of(spec.name, path.read_bytes())
    here = load_model(stand_in, path, device="cpu", threads=1)
    env = {
        "RMBG_HOST": "isnet",
        "RMBG_MODEL": spec.name,
        "RMBG_MODEL_PATH": str(path),
        "RMBG_THREADS": "1",
    }
    _check_served(service, coffee, here, env, "tests.support.isnet_worker")
