"""A graph of IS-Net's shape and size, with random weights, in a worker beside the service's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.local import probes
from inference.models.load import load_model
from inference.models.registry import get_spec
from inference.models.weights import file_sha256
from inference.options import Options
from inference.pipeline import remove_background
from tests.support.onnx_files import IsNetGraph
from tests.support.pictures import read_picture
from tests.support.servers import running
from tests.support.service import RunningService, worker_service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
_NAME = "isnet-general-use"


def test_its_matte_comes_through_the_service_unchanged(
    service: RunningService, coffee: Path, tmp_path: Path
) -> None:
    graph, path = IsNetGraph(), tmp_path / "isnet.onnx"
    spec = get_spec(_NAME)
    path.write_bytes(graph.file)
    assert spec.size_bytes is not None
    assert abs(path.stat().st_size / spec.size_bytes - 1) < 0.02, "as large as the published file"
    host = "isnet"
    env = service.env | {
        "RMBG_HOST": host,
        "RMBG_MODEL": _NAME,
        "RMBG_MODEL_PATH": str(path),
        "RMBG_THREADS": "1",
    }
    worker = f"gpu0@{host}"
    ready = probes.worker_ready(env["RMBG_REDIS_URL"], worker)
    queues = f"gpu.{host}.0,model.{_NAME}"
    process = worker_service(worker, queues, env, ready, app="tests.support.isnet_worker")
    with running(process, service.logs / f"{host}.log", seconds=180):
        task = service.client.wait(service.client.submit(coffee, {"model": _NAME}))
        assert (task["model"], task["worker"], task["status"]) == (_NAME, worker, "succeeded")
        served = np.asarray(read_picture(service.client.download(task["result_url"])))
    stand_in = replace(spec, size_bytes=path.stat().st_size, sha256=file_sha256(path))
    model = load_model(stand_in, path, device="cpu", threads=1)
    result = remove_background(coffee.read_bytes(), Options(), model)
    assert np.array_equal(served, np.asarray(read_picture(result.data)))
    assert len(np.unique(served[..., 3])) > 10, "a matte that differs from place to place"
