"""The audit log: lines of bounded size, and a file that several processes share."""

import json
import logging
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tasks.audit import Access, AuditFile, audit_access
from tasks.errors import SettingsError
from tasks.log import configure_logging
from tasks.settings import Settings
from tests.support.jobs import make_job


def _record(text: str) -> logging.LogRecord:
    return logging.LogRecord("audit", logging.INFO, "", 0, text, (), None)


def test_a_request_about_many_tasks_has_few_lines_of_bounded_size() -> None:
    jobs = [make_job() for _ in range(250)]
    with capture_logs() as lines:
        audit_access(Access.RESULT, jobs, request_id="r" * 64, pictures="original result")
        audit_access(Access.ERASED, [], request_id="r")
        audit_access(Access.ERASED, jobs[:1], request_id="r")
    *many, one = lines
    assert [each for line in many for each in line["task_ids"]] == [job.task_id for job in jobs]
    assert [len(line["task_ids"]) for line in many] == [100, 100, 50]
    assert one["task_id"] == jobs[0].task_id
    assert max(len(json.dumps(line)) for line in lines) < 4096


@pytest.mark.usefixtures("kept_loggers")
def test_the_file_gets_the_lines_whatever_the_level_and_the_log_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.log"
    configure_logging(Settings.load(log_level="error", log_format="console"), audit_log=path)
    job = make_job()
    audit_access(Access.ERASED, [job], request_id="order-17")
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["event"], line["task_id"]) == ("audit.erased", job.task_id)
    assert (line["request_id"], "timestamp" in line) == ("order-17", True)
    assert job.task_id not in capsys.readouterr().out
    with pytest.raises(SettingsError, match=r"RMBG_AUDIT_LOG: .* Is a directory"):
        configure_logging(Settings.load(), audit_log=tmp_path)


def test_processes_that_share_a_file_begin_a_new_one_once_and_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    processes = [AuditFile(path, file_bytes=100, kept_files=3) for _ in range(2)]
    for number in range(40):
        processes[number % 2].emit(_record(f"{number:09}"))
    files = [tmp_path / f"audit.log{end}" for end in (".3", ".2", ".1", "")]
    assert [len(file.read_text()) for file in files] == [100] * 4
    assert "".join(file.read_text() for file in files).split() == [f"{n:09}" for n in range(40)]
    processes[0].emit(_record("one more"))
    assert files[0].read_text().startswith("000000010")
    assert len(list(tmp_path.iterdir())) == 5  # with the lock
    # A tool has renamed it.
    path.rename(tmp_path / "elsewhere")
    processes[1].emit(_record("after that"))
    assert path.read_text() == "after that\n"
    for each in processes:
        each.close()


def test_while_the_file_cannot_be_written_the_lines_go_to_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with closing(AuditFile(folder / "audit.log")) as handler:
        folder.rename(tmp_path / "moved")
        handler.emit(_record("lost otherwise"))
        assert caplog.messages == ["lost otherwise"]
        folder.mkdir()
        handler.emit(_record("line 2"))
    assert (folder / "audit.log").read_text() == "line 2\n"
