"""The windows of the fast backbone: every token is in one."""

import pytest

from inference.models.birefnet.fast.windows import plan_windows


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("length", [4, 7, 12, 13, 16])
def test_every_token_is_in_one_window(length: int, shift: int) -> None:
    plan = plan_windows([(length, length + 2), (5, length)], 7, shift)
    order = plan.batched(2)
    assert sorted(order.tolist()) == list(range(2 * (length * (length + 2) + 5 * length)))
    assert sum(group.count * group.shape.tokens for group in plan.groups) == len(order) // 2
