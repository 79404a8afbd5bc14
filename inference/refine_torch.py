"""Estimate the foreground in torch, on the device that holds the matte.

`inference.refine` describes the method.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from inference.refine import NEGLIGIBLE_ALPHA, SMOOTHNESS, sampling_step, solver_levels


@torch.inference_mode()
def estimate_foreground(rgb: Tensor, alpha: Tensor, revealed: Tensor | None = None) -> Tensor:
    """Remove the old background's share from the colors of soft pixels.

    Args:
        rgb: (height, width, 3) uint8.
        alpha: (height, width) float32, 0..1, on the same device.
        revealed: (height, width) bool, on the same device; as in `inference.refine`.

    Returns:
        (height, width, 3) uint8; equal to `rgb` where the matte is almost 0 or 1, and within one
        level of the result of `inference.refine` elsewhere.
    """
    step = sampling_step(*alpha.shape)
    sampled = slice(step // 2, None, step)
    pair = _solve(rgb[sampled, sampled].permute(2, 0, 1).float(), alpha[sampled, sampled])
    pair = _enlarge_rows(_enlarge_rows(pair, alpha.shape[0], step).mT, alpha.shape[1], step).mT
    # For all pixels, though few are soft: a GPU does this faster than it finds those.
    colors, rest = rgb.permute(2, 0, 1), 1 - alpha
    residual = colors - alpha * pair[:3] - rest * pair[3:]
    solved = pair[:3] + residual * (alpha / (alpha * alpha + rest * rest))
    shown = alpha > float(NEGLIGIBLE_ALPHA)
    if revealed is not None:
        shown |= revealed
    soft = shown & (alpha < 1 - float(NEGLIGIBLE_ALPHA))
    result = torch.where(soft, solved.round_().clamp_(0, 255).to(torch.uint8), colors)
    return result.permute(1, 2, 0).contiguous()


def _solve(colors: Tensor, alpha: Tensor) -> Tensor:
    """Return F and B, (6, height, width), of a picture (3, height, width) and its matte."""
    pair = colors.mean(dim=(1, 2), keepdim=True).repeat(2, 1, 1)
    for rows, cols, passes in solver_levels(*alpha.shape):
        level_alpha = _resize_nearest(alpha[None], rows, cols)[0]
        pair = _resize_nearest(pair, rows, cols)
        pair = _relax(pair, _resize_nearest(colors, rows, cols), level_alpha, passes)
    return pair


def _resize_nearest(x: Tensor, rows: int, cols: int) -> Tensor:
    """Resize (n, height, width) to (n, rows, cols)."""
    at_rows = torch.arange(rows, device=x.device) * x.shape[1] // rows
    at_cols = torch.arange(cols, device=x.device) * x.shape[2] // cols
    return x[:, at_rows[:, None], at_cols]


def _relax(pair: Tensor, colors: Tensor, alpha: Tensor, passes: int) -> Tensor:
    """Run Jacobi passes over one level."""
    # The weights of edges, zero beyond the border: (height, width + 1) and (height + 1, width).
    across = F.pad(SMOOTHNESS + alpha.diff(dim=1).abs(), (1, 1))
    down = F.pad(SMOOTHNESS + alpha.diff(dim=0).abs(), (0, 0, 1, 1))
    total = across[:, 1:] + across[:, :-1] + down[1:] + down[:-1] + SMOOTHNESS
    rest = 1 - alpha
    shares = torch.stack((alpha, rest))[:, None]
    gains = shares / (total + alpha * alpha + rest * rest)
    for _ in range(passes):
        wide = F.pad(pair[None], (1, 1, 1, 1))[0]
        mean = SMOOTHNESS * pair
        mean = mean + wide[:, 1:-1, 2:] * across[:, 1:] + wide[:, 1:-1, :-2] * across[:, :-1]
        mean = mean + wide[:, 2:, 1:-1] * down[1:] + wide[:, :-2, 1:-1] * down[:-1]
        mean = (mean / total).view(2, 3, *alpha.shape)
        residual = colors - (mean * shares).sum(dim=0)
        pair = (mean + gains * residual).clamp(0, 255).flatten(0, 1)
    return pair


def _enlarge_rows(x: Tensor, length: int, step: int) -> Tensor:
    """Interpolate (n, samples, m) to (n, length, m); the first sample lies at half a step."""
    place = (torch.arange(length, device=x.device) - step // 2) / step
    place = place.clamp(0, x.shape[1] - 1)
    before = place.long()
    after = (before + 1).clamp(max=x.shape[1] - 1)
    return torch.lerp(x[:, before], x[:, after], (place - before)[:, None])
