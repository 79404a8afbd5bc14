"""U²-Net and IS-Net: what they see of a picture, and what becomes of their answers and files."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.errors import ModelError
from inference.models.base import MattingModel
from inference.models.load import load_model
from inference.models.onnx import has_cuda, preprocess, resize_matte
from inference.models.registry import get_spec
from tests.support.models import spec_of
from tests.support.onnx_files import mean_sigmoid_graph

_U2NETP = get_spec("u2netp")


def test_prepares_pictures_as_the_network_was_trained(photo: Image.Image) -> None:
    rgb = np.asarray(photo)
    tensor = preprocess(rgb, _U2NETP)
    assert (tensor.shape, tensor.dtype) == ((1, 3, 320, 320), np.float32)
    small = np.asarray(photo.resize((320, 320), Image.Resampling.BILINEAR), float)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((small / small.max() - mean) / std).transpose(2, 0, 1)
    assert np.abs(tensor[0] - expected).max() < 1e-5


def test_a_black_picture_divides_by_no_zero() -> None:
    assert np.isfinite(preprocess(np.zeros((10, 10, 3), np.uint8), _U2NETP)).all()


@pytest.mark.parametrize(("width", "height"), [(1500, 801), (100, 75), (2, 5000), (300_000, 2)])
def test_strips_of_a_matte_join_without_a_seam(width: int, height: int) -> None:
    matte = np.random.default_rng(1).random((320, 320), np.float32)
    whole = Image.fromarray(matte).resize((width, height), Image.Resampling.BICUBIC)
    difference = np.abs(resize_matte(matte, width, height) - np.clip(np.asarray(whole), 0, 1))
    assert difference.max() < 1e-4


def test_makes_up_no_subject_where_there_is_none(u2netp: MattingModel) -> None:
    (alpha,) = u2netp.matte([np.full((64, 64, 3), 128, np.uint8)])
    assert alpha.max() < 0.9  # stretched to its own range, it would be 1 somewhere


@pytest.fixture
def isnet(tmp_path: Path) -> MattingModel:
    """Stands in for IS-Net, whose weights are not at hand: the same input, and a known answer."""
    path = tmp_path / "isnet.onnx"
    path.write_bytes(mean_sigmoid_graph(1024))
    spec = spec_of("isnet-general-use", path.read_bytes())
    return load_model(spec, path, device="cpu", threads=1)


@pytest.mark.parametrize(("level", "seen"), [(0, -0.5), (128, 0.5), (255, 0.5)])
def test_isnet_sees_a_picture_by_its_brightest_value_and_its_answer_is_not_stretched(
    isnet: MattingModel, level: int, seen: float
) -> None:
    (alpha,) = isnet.matte([np.full((40, 60, 3), level, np.uint8)])
    assert alpha.shape == (40, 60)
    assert np.abs(alpha - 1 / (1 + np.exp(-seen))).max() < 1e-5
    half = np.zeros((40, 60, 3), np.uint8)
    half[:, 30:] = (200, 100, 0)
    (alpha,) = isnet.matte([half])
    assert abs(alpha[20, 55] - 0.5) < 1e-3, "the mean of 1, 0.5 and 0, less a half"
    assert abs(alpha[20, 5] - 0.3775) < 1e-3


def test_an_idle_model_burns_no_processor(u2netp: MattingModel) -> None:
    def burnt() -> float:
        before = time.process_time()
        time.sleep(0.3)  # nothing happens, and that is what is measured
        return time.process_time() - before

    u2netp.warm_up()
    # Other threads of this process may have work, now and then.
    assert any(burnt() < 0.1 for _ in range(20))


def test_the_file_is_checked_before_it_is_loaded(u2netp_file: Path, tmp_path: Path) -> None:
    spec, path = get_spec("u2netp"), tmp_path / "u2netp.onnx"
    with pytest.raises(ModelError, match=r"is missing\. Run: rmbg models fetch u2netp"):
        load_model(spec, path)
    changed = bytearray(u2netp_file.read_bytes())
    changed[1000] ^= 1
    path.write_bytes(changed)
    with pytest.raises(ModelError, match="another SHA-256"):
        load_model(spec, path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(u2netp_file: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(u2netp_file, tmp_path))
    path.chmod(0)
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(get_spec("u2netp"), path)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"device": "tpu"}, "There is no device 'tpu': use auto, cpu, cuda or cuda:N"),
        ({"precision": "fp16"}, "runs in fp32 only"),
        ({"device": "cuda"}, "no ONNX Runtime with CUDA is installed: pip install onnxruntime-gpu"),
        ({"device": "cuda:1"}, "no ONNX Runtime with CUDA is installed"),
    ],
)
def test_what_cannot_be_had_is_refused_and_never_replaced(
    choice: dict[str, str], words: str, u2netp_file: Path
) -> None:
    if has_cuda() and choice.get("device", "").startswith("cuda"):
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(ModelError, match=words):
        load_model(get_spec("u2netp"), u2netp_file, **choice)  # type: ignore[arg-type]
