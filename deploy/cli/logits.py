"""`rmbg models logits`: raw logits, to compare with another implementation's."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deploy.cli.torch_needed import torch_needed
from inference.errors import ModelError
from inference.models.birefnet.config import PRESETS, PatchOrder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class KeysFrom(StrEnum):
    """Where weights and input come from when no files are given."""

    GOLDEN = "golden"


def logits(
    *,
    out: Annotated[Path, typer.Option(help="The .npy file to write.")],
    keys_from: Annotated[
        KeysFrom | None, typer.Option(help="Make weights and input up from the seed.")
    ] = None,
    seed: Annotated[str, typer.Option(help="Seed of made-up weights and input.")] = "public",
    size: Annotated[int, typer.Option(help="Side of the made-up input, a multiple of 32.")] = 256,
    weights: Annotated[
        Path | None, typer.Option(help="A .safetensors file, or a folder that holds one.")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option("--input", help="A .npy file, (batch, 3, height, width), normalised."),
    ] = None,
    patch_order: Annotated[
        PatchOrder | None, typer.Option(help="Of the weights; needed unless they are known.")
    ] = None,
    model: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "rmbg-2.0",
) -> None:
    """Write the network's raw logits, (height, width) float32, computed in float32 on the CPU.

    Either from --keys-from golden --seed SEED --size N, in RMBG-2.0's patch order, or from
    --weights FILE --input FILE --patch-order ORDER.
    """
    console = Console(stderr=True)
    try:
        answer = _answer(
            model=model,
            keys_from=keys_from,
            seed=seed,
            size=size,
            weights=weights,
            picture=picture,
            patch_order=patch_order,
        )
        _save(out, answer)
    except ModelError as error:
        console.print(str(error), markup=False)
        raise typer.Exit(1) from error
    console.print(f"{out}: {answer.shape}, standard deviation {answer.std():.4f}", markup=False)


def _answer(
    *,
    model: str,
    keys_from: KeysFrom | None,
    seed: str,
    size: int,
    weights: Path | None,
    picture: Path | None,
    patch_order: PatchOrder | None,
) -> "NDArray[np.float32]":
    if model not in PRESETS:
        raise typer.BadParameter(f"There is no BiRefNet {model!r}: use {', '.join(PRESETS)}.")
    with torch_needed():
        from inference.models.birefnet import logits as source  # noqa: PLC0415 - imports torch
    if keys_from is KeysFrom.GOLDEN and weights is None and picture is None:
        return source.golden_logits(PRESETS[model], seed, size)
    if keys_from is None and weights is not None and picture is not None:
        return source.checkpoint_logits(PRESETS[model], weights, picture, patch_order)
    raise typer.BadParameter(
        "Give either --keys-from golden (with --seed and --size), or --weights and --input."
    )


def _save(path: Path, answer: "NDArray[np.float32]") -> None:
    import numpy as np  # noqa: PLC0415 - the command line starts without it

    try:
        with path.open("wb") as file:  # a file object, or numpy appends ".npy" to other names
            np.save(file, answer)
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror}.") from error
