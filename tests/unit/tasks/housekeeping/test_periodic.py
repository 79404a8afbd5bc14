import threading
from contextlib import nullcontext
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from tasks.errors import QueueUnavailableError
from tasks.housekeeping import periodic
from tasks.housekeeping.periodic import HousekeepingStep, Periodic


def test_no_failure_of_a_run_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic, "_FAILURE_SECONDS", 0.01)
    stopped, runs = threading.Event(), []
    errors = [QueueUnavailableError("Redis does not answer."), KeyError("x")]

    def run() -> None:
        runs.append(1)
        if errors:
            raise errors.pop(0)
        stopped.set()

    with capture_logs() as lines:
        Periodic("sweeping", 0.001, run).run_until(stopped)
    assert len(runs) == 3, "and none once it is stopped"
    assert [line["event"] for line in lines] == ["sweeping.unavailable", "sweeping.failed"]


@pytest.mark.parametrize(("active_seconds", "waits"), [(0.0, True), (60.0, False)])
def test_work_that_found_nothing_for_a_while_waits_for_the_end_of_a_job(
    monkeypatch: pytest.MonkeyPatch, active_seconds: float, *, waits: bool
) -> None:
    monkeypatch.setattr(periodic, "_ACTIVE_SECONDS", active_seconds)
    stopped, watcher, wait = threading.Event(), Mock(), Mock(return_value=True)
    watcher.watch.return_value = nullcontext(wait)

    def run() -> bool:
        stopped.set()
        return True

    Periodic("webhooks", 0.001, run, watcher).run_until(stopped)
    watcher.watch.assert_called_once_with("*")
    assert wait.called is waits


def test_a_shutdown_waits_a_moment_for_a_run() -> None:
    step, thread = HousekeepingStep(Mock()), Mock()
    step._threads = [thread]
    step.stop(None)
    assert 0 < thread.join.call_args.kwargs["timeout"] <= 1
