"""A BiRefNet from a checkpoint on disk, through the whole service: API, queue, worker, bucket."""

import io
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from deploy.client import ServiceClient
from deploy.local import probes
from deploy.local.ports import reserved_ports
from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.birefnet.golden import golden_state
from inference.models.load import load_model
from inference.models.registry import get_spec
from inference.options import Options
from inference.pipeline import remove_background
from tests.support.servers import Servers, running
from tests.support.service import api_service, worker_service

_HOST = "birefnet"
_SEED = "service"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, as the hub would lay one out."""
    folder = tmp_path_factory.mktemp("checkpoint")
    save_file(golden_state(PRESETS["birefnet-tiny"], _SEED), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def client(
    servers: Servers,
    service_environment: dict[str, str],
    checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServiceClient]:
    # A database of its own, so that no other worker takes its jobs.
    redis_url = servers.new_database()
    env = service_environment | {
        "RMBG_REDIS_URL": redis_url,
        "RMBG_S3_BUCKET": f"{servers.bucket}-birefnet",
        "RMBG_HOST": _HOST,
        "RMBG_MODEL": "birefnet-tiny",
        "RMBG_MODEL_PATH": str(checkpoint),
        "RMBG_PATCH_ORDER": "rmbg-2.0",
        "RMBG_PRECISION": "fp32",
        "RMBG_DEVICE": "cpu",
    }
    name, logs = f"gpu0@{_HOST}", tmp_path_factory.mktemp("logs")
    queues = f"gpu.{_HOST}.0,model.birefnet-tiny"
    worker = worker_service(name, queues, env, probes.worker_ready(redis_url, name))
    with ExitStack() as stack:
        port = stack.enter_context(reserved_ports())[0]
        stack.enter_context(running(worker, logs / "gpu0.log", seconds=60))
        stack.enter_context(running(api_service(port, env), logs / "api.log"))
        yield stack.enter_context(ServiceClient(f"http://127.0.0.1:{port}"))


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def test_its_matte_comes_through_the_service_unchanged(
    client: ServiceClient, checkpoint: Path, coffee: Path
) -> None:
    task = client.wait(client.submit(coffee, {"cache": "false"}))
    assert (task["model"], task["worker"]) == ("birefnet-tiny", f"gpu0@{_HOST}")
    served = _pixels(client.cut_out(coffee, {}))
    assert served.shape == (400, 600, 4)
    mattes = {}
    for order in PatchOrder:
        model = load_model(
            get_spec("birefnet-tiny"), checkpoint, device="cpu", threads=2, patch_order=order
        )
        result = remove_background(coffee.read_bytes(), Options(), model)
        mattes[order] = _pixels(result.data)[..., 3].astype(int)
    # Threads split sums in other ways, hence a level of 255.
    assert np.abs(mattes[PatchOrder.RMBG_2_0] - served[..., 3]).max() <= 1
    assert np.abs(mattes[PatchOrder.BIREFNET] - served[..., 3]).max() > 5


def test_the_caller_may_refuse_to_have_edges_refined(client: ServiceClient, coffee: Path) -> None:
    refined, plain = (
        _pixels(client.cut_out(coffee, {"refine": value})) for value in ("true", "false")
    )
    np.testing.assert_array_equal(refined[..., 3], plain[..., 3])
    visible = plain[..., 3] > 0
    assert (refined[visible] != plain[visible]).any()
    with Image.open(coffee) as photo:
        np.testing.assert_array_equal(plain[visible][:, :3], np.asarray(photo)[visible])
