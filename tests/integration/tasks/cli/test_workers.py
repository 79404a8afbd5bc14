"""`celery jobs workers`, `drain` and `undrain`."""

import pytest

from tests.support.commands import WORKER, Operator


def test_workers_shows_what_each_is_doing_until_it_is_drained(operator: Operator) -> None:
    assert "start one" in operator.run("workers").stdout
    operator.registry.record_heartbeat(WORKER, queue="gpu.testhost.0", model="u2netp")
    assert operator.json("workers")["workers"][0]["state"] == "not-ready"
    operator.registry.mark_ready(WORKER, 60, pid=7)
    (worker,) = operator.json("workers")["workers"]
    assert (worker["name"], worker["state"], worker["model"]) == (WORKER, "ready", "u2netp")
    assert f"undrain {WORKER}" in operator.errors("drain", WORKER, "--reason", "new fan", status=0)
    shown = operator.run("workers").stdout.splitlines()[1]
    assert shown.split()[:2] == [WORKER, "drained"]
    assert "new fan" in shown
    assert operator.json("undrain", WORKER) == {"undrained": WORKER}
    assert operator.registry.drained(WORKER) == ""
    assert "not drained" in operator.errors("undrain", WORKER)


@pytest.mark.parametrize("verb", ["drain", "undrain"])
def test_a_mistyped_worker_is_not_drained(operator: Operator, verb: str) -> None:
    operator.registry.record_heartbeat(WORKER)
    assert f"Model workers: {WORKER}" in operator.errors(verb, "gpu9")
    assert operator.json(verb, "gpu9", status=1)["error"]["type"] == "unknown_worker"
