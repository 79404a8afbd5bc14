"""What `rmbg bench gpu-share` makes of its readings, and of a service on the CPU."""

import pytest

from deploy.bench.gpu_share import GpuLoad, Share, measure_shares, share_table


def test_shares_are_compared_with_the_model_alone() -> None:
    alone = Share(0, 100.0, 0.01, GpuLoad([0.9, 1.0], [2 * 2**30]), 0.0)
    two = Share(2, 80.0, 0.05, GpuLoad(), 500.0)
    assert share_table([alone, two]).splitlines()[2:4] == [
        "| the model alone | 100.00 | 1.00× | 10 | 95% | 2,048 |  |",
        "| 2 | 80.00 | 0.80× | 50 | – | – | 500 |",
    ]


@pytest.mark.slow
def test_a_service_with_made_up_weights_is_measured() -> None:
    alone, one = measure_shares("birefnet-tiny", "cpu", (1,), 2)
    assert (alone.workers, one.workers) == (0, 1)
    assert min(alone.per_second, one.per_second, one.worker_mb) > 0
