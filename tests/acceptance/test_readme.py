"""The commands of the README and the docs are run as they stand, against the real service."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import pytest
from redis import Redis

from deploy.client import submit_batch
from deploy.local import service as local_service
from deploy.local.data_folder import SHELL_FILE, write_shell_file
from tasks import redis_keys
from tasks.api_keys import ApiKeys
from tasks.errors import KeyNameError
from tasks.housekeeping.missing_messages import list_key
from tasks.jobs.job import Job, Priority, Status, new_task_id
from tasks.jobs.routing import task_id_of_message
from tasks.jobs.store import MAX_CRASHES
from tasks.object_store import original_key
from tasks.redis_client import connect
from tests.support.paths import ROOT
from tests.support.service import HOST, RunningService

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
    """Makes what a command is about, each time: tests may run in any order."""

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
        task_id = new_task_id()
        original = original_key(task_id)
        self.service.store.create(Job(task_id, IDLE_MODEL, IDLE_QUEUE, original, 1.7e9, 4e9))
        self.made.append(task_id)
        return task_id

    def waiting_for_the_model(self) -> str:
        """In a queue that a worker takes from, which is drained: it passes on what it gets."""
        self.service.registry.drain(WORKER, "by a test")
        task_id = self.service.client.submit(self.coffee, {"cache": "false"})
        self.made.append(task_id)
        passed_on, last = -1, self.sends(task_id)
        while last != passed_on:  # until it stays where it is
            time.sleep(0.5)
            passed_on, last = last, self.sends(task_id)
        return task_id

    def sends(self, task_id: str) -> int:
        return int(self.redis.hget(redis_keys.job_key(task_id), "redispatches") or 0)

    def unreadable(self) -> str:
        task_id = self.waiting()
        self.redis.hset(redis_keys.job_key(task_id), "options", "{no json")
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
        self.service.registry.drain(WORKER, "by a test")
        return task_id

    def telling(self) -> str:
        """A job that had a webhook; with no secret to sign it, it is soon given up."""
        task_id = new_task_id()
        original, url = original_key(task_id), "http://127.0.0.1:9/"
        job = Job(task_id, IDLE_MODEL, IDLE_QUEUE, original, 1.7e9, 4e9, webhook_url=url)
        self.service.store.create(job)
        self.service.store.cancel(task_id)
        return task_id

    def keyed(self) -> str:
        self.keys().add("shop")
        return self.succeeded()

    def keys(self) -> ApiKeys:
        return ApiKeys(self.redis)

    @property
    def redis(self) -> Redis:
        return connect(self.service.env["RMBG_REDIS_URL"])

    def status(self, task_id: str) -> str | None:
        """As it stands in the record, of which the rest may be damaged."""
        return self.redis.hget(redis_keys.job_key(task_id), "status")

    def messages(self, queue: str) -> list[str]:
        """The ids of the jobs whose messages wait in a queue."""
        found = [
            text
            for step in Priority
            for text in self.redis.lrange(list_key(f"{queue}|{int(step)}"), 0, -1)
        ]
        return [task_id_of_message(json.loads(text)["headers"]["id"]) for text in found]

    def clear(self) -> None:
        with suppress(KeyNameError):
            self.keys().revoke("shop")
        self.service.registry.undrain(WORKER)
        for task_id in self.made:
            self.service.store.cancel(task_id)
            self.service.store.drop_dead(task_id)
        self.redis.delete(*(list_key(f"{IDLE_QUEUE}|{int(step)}") for step in Priority))


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
    ("jobs purge --queue model.u2netp", Scene.waiting_for_the_model),
    ("jobs purge", Scene.waiting),
    ("jobs dead list", Scene.dead),
    ("jobs list --status failed", Scene.dead),
    ("jobs list --status queued", Scene.waiting),
    ("jobs stuck", Scene.unreadable),
    (" purge -f", Scene.waiting),
    ("jobs undrain", Scene.drained),
    ("$BATCH_ID", Scene.batch),
    ("$WEBHOOK_ID", Scene.telling),
    ("keys rotate-secret", Scene.keyed),
    ("keys revoke", Scene.keyed),
    ("", Scene.succeeded),
)


def _begun_anew(scene: Scene, task_id: str, _: str) -> None:
    assert scene.status(task_id) == Status.QUEUED
    assert task_id in scene.messages(IDLE_QUEUE)
    assert task_id not in scene.service.store.dead()


def _all_letters_begun_anew(scene: Scene, task_id: str, said: str) -> None:
    _begun_anew(scene, task_id, said)
    assert scene.service.store.dead() == []


def _dropped(scene: Scene, task_id: str, _: str) -> None:
    assert scene.status(task_id) == Status.FAILED
    assert task_id not in scene.service.store.dead()


def _all_dropped(scene: Scene, task_id: str, said: str) -> None:
    _dropped(scene, task_id, said)
    assert scene.service.store.dead() == []


def _canceled(scene: Scene, task_id: str, said: str) -> None:
    assert scene.status(task_id) == Status.CANCELED
    assert f"canceled  {task_id}" in said


def _queue_purged(scene: Scene, task_id: str, said: str) -> None:
    _canceled(scene, task_id, said)
    job = scene.service.store.get(task_id)
    assert job is not None
    assert f"messages removed from {job.queue}" in said
    assert scene.messages(job.queue) == []


def _all_purged(scene: Scene, task_id: str, said: str) -> None:
    _canceled(scene, task_id, said)
    assert scene.service.store.ids(Status.QUEUED) == []


def _still_waiting(scene: Scene, task_id: str, _: str) -> None:
    assert scene.status(task_id) == Status.QUEUED


def _listed(_: Scene, task_id: str, said: str) -> None:
    assert task_id in said


def _stuck(_: Scene, task_id: str, said: str) -> None:
    (line,) = [line for line in said.splitlines() if task_id in line]
    assert "unreadable_record" in line


def _is_drained(scene: Scene, _: str, said: str) -> None:
    assert f"drained  {WORKER}" in said
    (worker,) = [each for each in scene.service.registry.workers() if each.name == WORKER]
    assert worker.drained
    assert not worker.usable


def _takes_jobs_again(scene: Scene, _: str, said: str) -> None:
    assert f"undrained  {WORKER}" in said
    assert scene.service.registry.drained(WORKER) == ""
    assert scene.status(scene.succeeded()) == Status.SUCCEEDED


def _shows_workers(_: Scene, __: str, said: str) -> None:
    assert WORKER in said


#: What must have been done, by the command's words; the first that fits.
_AFTER: tuple[tuple[str, Callable[[Scene, str, str], None]], ...] = (
    ("jobs dead requeue --all", _all_letters_begun_anew),
    ("jobs dead requeue", _begun_anew),
    ("jobs dead drop --all", _all_dropped),
    ("jobs dead drop", _dropped),
    ("jobs dead list", _listed),
    ("jobs requeue", _begun_anew),
    ("jobs cancel", _canceled),
    ("jobs purge --queue", _queue_purged),
    ("jobs purge --status", _all_purged),
    (" purge -f", _still_waiting),
    ("jobs list", _listed),
    ("jobs show", _listed),
    ("jobs stuck", _stuck),
    ("jobs drain", _is_drained),
    ("jobs undrain", _takes_jobs_again),
    ("jobs workers", _shows_workers),
)


def test_every_command_about_jobs_is_looked_into() -> None:
    about_jobs = [command for command in _all_commands() if "tasks.app jobs" in command]
    assert len(about_jobs) >= 20
    assert all(any(words in command for words, _ in _AFTER) for command in about_jobs)


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
    for check in [check for words, check in _AFTER if words in command][:1]:
        check(scene, task_id, done.stdout)


def _run(
    service: RunningService, folder: Path, command: str, task_id: str
) -> subprocess.CompletedProcess[str]:
    (folder / "tests").symlink_to(ROOT / "tests")
    (folder / "data").mkdir()
    write_shell_file(folder / "data", service.env)
    here = command.replace("http://127.0.0.1:8000", service.url)
    for name in ("rmbg", "celery"):
        here = here.replace(f".venv/bin/{name}", local_service.script(name))
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
