"""The backbone's windows against their definitions, token by token."""

import pytest
import torch

from inference.models.birefnet.swin import (
    PatchMerging,
    join_windows,
    relative_position_index,
    shift_mask,
    split_windows,
)


def test_windows_are_cut_row_by_row_and_joined_again() -> None:
    x = torch.arange(2 * 6 * 9 * 5).view(2, 6, 9, 5)
    windows = split_windows(x, 3)
    # The second picture's window in the second row and third column.
    assert torch.equal(windows[6 + 3 + 2], x[1, 3:6, 6:9].reshape(9, 5))
    assert torch.equal(join_windows(windows, 3, x.shape[:3]), x)


def test_pairs_of_tokens_share_a_bias_if_they_are_as_far_apart() -> None:
    index, window = relative_position_index(4), 4
    at = [(row, col) for row in range(window) for col in range(window)]
    offsets: dict[int, set[tuple[int, int]]] = {}
    for one, (row, col) in enumerate(at):
        for other, (row_2, col_2) in enumerate(at):
            offsets.setdefault(int(index[one, other]), set()).add((row - row_2, col - col_2))
    assert sorted(offsets) == list(range((2 * window - 1) ** 2))
    assert all(len(each) == 1 for each in offsets.values())


@pytest.mark.parametrize(("rows", "cols", "window"), [(8, 12, 4), (7, 5, 4), (7, 14, 7), (3, 3, 4)])
def test_tokens_that_a_shift_brought_together_are_masked(rows: int, cols: int, window: int) -> None:
    """A pair is masked if the map lies between the two, before the shift, in another way."""
    height, width, shift = rows + -rows % window, cols + -cols % window, window // 2
    grid = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    before = torch.stack(grid, -1).roll((-shift, -shift), dims=(0, 1))[None]
    tokens = split_windows(before, window)
    offsets = tokens[:, :, None] - tokens[:, None, :]
    within = torch.stack(torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij"), -1)
    within = within.view(-1, 2)
    apart = (offsets != within[:, None] - within[None, :]).any(-1)
    mask = shift_mask(rows, cols, window, torch.device("cpu"))
    assert torch.equal(mask, -100.0 * apart.float())


def test_merging_halves_odd_sides_upwards() -> None:
    merging = PatchMerging(4)
    assert merging(torch.zeros(1, 5, 7, 4)).shape == (1, 3, 4, 8)
    # A token is made of its four neighbors alone, in the order of the published weights.
    with torch.no_grad():
        merging.norm = torch.nn.Identity()  # type: ignore[assignment]
        merging.reduction.weight.copy_(torch.eye(8, 16))
        x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
        upper_left_and_lower_left = torch.cat((x[0, 2, 0], x[0, 3, 0]))
        assert torch.equal(merging(x)[0, 1, 0], upper_left_and_lower_left)
