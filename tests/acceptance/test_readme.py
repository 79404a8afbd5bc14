"""The commands of the README and the docs are run as they stand, against the real service."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import pytest
from serving import HOST, RunningService

from deploy.batch_client import submit_batch
from deploy.local import binaries
from deploy.local.shell import SHELL_FILE, write_shell_file
from tasks import keys
from tasks.api_keys import ApiKeys
from tasks.errors import KeyNameError
from tasks.jobs import Job, Status
from tasks.store import MAX_CRASHES, connect

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "docs/operations.md",
    "docs/models.md",
    "docs/removebg.md",
    "docs/keys.md",
    "docs/webhooks.md",
)
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: Run elsewhere: `make up` by test_up.py, `make test` and `make lint` are how this test is run.
_RUN_ELSEWHERE = re.compile(r"make (up|test|lint|install|bench|test-slow)\b")
WORKER = f"gpu0@{HOST}"
#: A model that no worker serves, so that its jobs wait, and a queue of it.
IDLE_MODEL, IDLE_QUEUE = "nobody", "model.nobody"


def _commands(document: str) -> list[str]:
    blocks = _BLOCK.findall((ROOT / document).read_text())
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not _RUN_ELSEWHERE.match(line)]


def _all_commands() -> list[str]:
    """Each once."""
    return list(dict.fromkeys(chain.from_iterable(map(_commands, DOCUMENTS))))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_has_commands_to_run(document: str) -> None:
    assert len(_commands(document)) >= 3


@dataclass
class Scene:
    """Makes what a command is about, each time anew: tests may run in any order."""

    service: RunningService
    coffee: Path
    made: list[str] = field(default_factory=list)

    def succeeded(self) -> str:
        task_id = self.service.client.submit(self.coffee, {"cache": "false"})
        self.service.client.wait(task_id)
        return task_id

    def batch(self) -> str:
        batch = submit_batch(self.service.client, [self.coffee], {})
        for item in batch["items"]:
            self.service.client.wait(item["task_id"])
        return str(batch["batch_id"])

    def waiting(self) -> str:
        task_id = keys.new_task_id()
        original = keys.original_key(task_id)
        self.service.store.create(Job(task_id, IDLE_MODEL, IDLE_QUEUE, original, 1.7e9, 4e9))
        self.made.append(task_id)
        return task_id

    def canceled(self) -> str:
        task_id = self.waiting()
        self.service.store.cancel(task_id)
        return task_id

    def dead(self) -> str:
        task_id = self.waiting()
        for _ in range(MAX_CRASHES):
            self.service.store.claim(task_id, token="w/1/x", worker="w")
            self.service.store.crash(task_id, holder="w/1/")
        return task_id

    def drained(self) -> str:
        task_id = self.succeeded()
        self.service.fleet.drain(WORKER, "by a test")
        return task_id

    def telling(self) -> str:
        """A job that had a webhook; with no secret to sign it, it is soon given up."""
        task_id = keys.new_task_id()
        original, url = keys.original_key(task_id), "http://127.0.0.1:9/"
        job = Job(task_id, IDLE_MODEL, IDLE_QUEUE, original, 1.7e9, 4e9, webhook_url=url)
        self.service.store.create(job)
        self.service.store.cancel(task_id)
        return task_id

    def keyed(self) -> str:
        self.keys().add("shop")
        return self.succeeded()

    def keys(self) -> ApiKeys:
        return ApiKeys(connect(self.service.env["RMBG_REDIS_URL"]))

    def clear(self) -> None:
        with suppress(KeyNameError):
            self.keys().revoke("shop")
        self.service.fleet.undrain(WORKER)
        for task_id in self.made:
            self.service.store.cancel(task_id)
            self.service.store.drop_dead(task_id)


@pytest.fixture
def scene(service: RunningService, coffee: Path) -> Iterator[Scene]:
    scene = Scene(service, coffee)
    yield scene
    scene.clear()


#: What has to be there before a command, by its words; `$TASK_ID` is the answer.
_BEFORE: tuple[tuple[str, Callable[[Scene], str]], ...] = (
    ("jobs dead requeue", Scene.dead),
    ("jobs dead drop", Scene.dead),
    ("jobs requeue --failed", Scene.dead),
    ("jobs requeue", Scene.canceled),
    ("jobs cancel", Scene.waiting),
    ("jobs purge", Scene.waiting),
    (" purge -f", Scene.waiting),
    ("jobs undrain", Scene.drained),
    ("$BATCH_ID", Scene.batch),
    ("$WEBHOOK_ID", Scene.telling),
    ("keys rotate-secret", Scene.keyed),
    ("keys revoke", Scene.keyed),
    ("", Scene.succeeded),
)
#: What has become of the job of `$TASK_ID`, by the command's words.
_AFTER = {
    "jobs dead requeue": Status.QUEUED,
    "jobs dead drop": Status.FAILED,
    "jobs requeue": Status.QUEUED,
    "jobs cancel": Status.CANCELED,
    "jobs purge --queue $QUEUE": Status.CANCELED,
    "jobs purge --status": Status.CANCELED,
    " purge -f": Status.QUEUED,
}


@pytest.mark.parametrize("command", _all_commands())
def test_a_command_works_as_it_is_written(scene: Scene, tmp_path: Path, command: str) -> None:
    service = scene.service
    task_id = next(make for words, make in _BEFORE if words in command)(scene)
    done = _run(service, tmp_path, command, task_id)
    assert done.returncode == 0, done.stderr + done.stdout
    assert '"code":4' not in done.stdout
    if " -o " in command:
        (target,) = re.findall(r"-o (\S+)", command)
        assert (tmp_path / target).exists()
    for words, status in _AFTER.items():
        if words in command:
            job = service.store.get(task_id)
            assert job is not None
            assert job.status is status
    if "drain" in command:
        assert bool(service.fleet.drained(WORKER)) is ("jobs drain" in command)


def _run(
    service: RunningService, folder: Path, command: str, task_id: str
) -> subprocess.CompletedProcess[str]:
    (folder / "tests").symlink_to(ROOT / "tests")
    (folder / "data").mkdir()
    write_shell_file(folder / "data", service.env)
    here = command.replace("http://127.0.0.1:8000", service.url)
    for name in ("rmbg", "celery"):
        here = here.replace(f".venv/bin/{name}", binaries.script(name))
    variables = {
        "TASK_ID": task_id,
        "BATCH_ID": task_id,
        "WEBHOOK_ID": f"msg_{task_id}_1",
        "WORKER": WORKER,
        "QUEUE": IDLE_QUEUE,
    }
    return subprocess.run(
        # In one shell, as a reader would: the settings first.
        ["bash", "-euc", f". data/{SHELL_FILE}\n{here}"],
        cwd=folder,
        env={**os.environ, **variables, "RMBG_URL": service.url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
