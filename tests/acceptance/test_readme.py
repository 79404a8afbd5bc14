"""The commands of the README and the docs are run as they stand, against the real service.

Commands of `rmbg` and `celery` run in this process, but for one of each kind, which runs in a shell
as `curl` does.
"""

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from string import Template

import click
import pytest
from celery.bin.base import CLIContext
from celery.bin.purge import purge
from click.testing import CliRunner
from redis import Redis
from typer.testing import CliRunner as TyperRunner

from deploy.cli.main import app as rmbg
from deploy.client import submit_batch
from deploy.local.data_folder import SHELL_FILE, write_shell_file
from deploy.local.service import script
from tasks import redis_keys
from tasks.api_keys import ApiKeys
from tasks.app import create_celery
from tasks.cli.jobs import jobs
from tasks.cli.webhooks import webhooks
from tasks.errors import KeyNameError
from tasks.housekeeping.missing_messages import list_key
from tasks.jobs.job import Priority, Status
from tasks.jobs.routing import task_id_of_message
from tasks.redis_client import connect
from tasks.settings import Settings
from tests.support.commands import crash
from tests.support.jobs import make_job
from tests.support.paths import DATA, ROOT
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
#: `make up` is run by test_up.py, and `make test` and `make lint` are how this test is run.
_RUN_ELSEWHERE = re.compile(r"make (up|test|lint|install|bench|test-slow)\b")
_IN_A_SHELL = re.compile(
    r"curl |\. |\S+/rmbg doctor$|\S+/celery -A tasks.app (jobs workers|webhooks list)$"
)
_CELERY: dict[str, click.Command] = {"jobs": jobs, "webhooks": webhooks, "purge": purge}
WORKER = f"gpu0@{HOST}"
#: A model that no worker serves, so that its jobs wait, and a queue of it.
IDLE_MODEL, IDLE_QUEUE = "nobody", "model.nobody"


def _commands(document: str) -> list[str]:
    blocks = _BLOCK.findall((ROOT / document).read_text())
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not _RUN_ELSEWHERE.match(line)]


#: Each once.
COMMANDS = list(dict.fromkeys(chain.from_iterable(map(_commands, DOCUMENTS))))


@dataclass
class Scene:
    """Makes what a command is about, each time: tests may run in any order."""

    service: RunningService
    redis: Redis
    coffee: Path
    made: list[str] = field(default_factory=list)

    def submit(self) -> str:
        return self.service.client.submit(self.coffee, {"cache": "false"})

    def succeeded(self) -> str:
        task_id = self.submit()
        self.service.client.wait(task_id)
        return task_id

    def batch(self) -> str:
        batch = submit_batch(self.service.client, [self.coffee], {})
        for item in batch["items"]:
            self.service.client.wait(item["task_id"])
        return str(batch["batch_id"])

    def waiting(self, **changes: object) -> str:
        job = make_job(model=IDLE_MODEL, queue=IDLE_QUEUE, **changes)
        self.service.store.create(job)
        self.made.append(job.task_id)
        return job.task_id

    def waiting_for_the_model(self) -> str:
        """In a queue that a worker takes from, which is drained: it passes on what it gets."""
        self.drained()
        task_id = self.submit()
        self.made.append(task_id)
        passed_on, last = "", self.field(task_id, "redispatches")
        while last != passed_on:  # until it stays where it is
            time.sleep(0.5)
            passed_on, last = last, self.field(task_id, "redispatches")
        return task_id

    def unreadable(self) -> str:
        task_id = self.waiting()
        self.redis.hset(redis_keys.job_key(task_id), "options", "{no json")
        return task_id

    def canceled(self, **changes: object) -> str:
        task_id = self.waiting(**changes)
        self.service.store.cancel(task_id)
        return task_id

    def dead(self) -> str:
        task_id = self.waiting()
        crash(self.service.store, task_id)
        return task_id

    def drained(self) -> str:
        self.service.registry.drain(WORKER, "by a test")
        return WORKER

    def notifying(self) -> str:
        """A job that had a webhook; its owner has no secret to sign it, so it is soon given up."""
        return self.canceled(webhook_url="http://127.0.0.1:9/", owner="nobody")

    def keyed(self) -> str:
        ApiKeys(self.redis).add("shop")
        return "shop"

    def worker(self) -> str:
        return WORKER

    def field(self, task_id: str, name: str) -> str | None:
        """As it stands in the record, of which the rest may be damaged."""
        return self.redis.hget(redis_keys.job_key(task_id), name)

    def status(self, task_id: str) -> str | None:
        return self.field(task_id, "status")

    def messages(self, queue: str) -> list[str]:
        """The ids of the jobs whose messages wait in a queue."""
        found = [text for key in _lists(queue) for text in self.redis.lrange(key, 0, -1)]
        return [task_id_of_message(json.loads(text)["headers"]["id"]) for text in found]

    def clear(self) -> None:
        with suppress(KeyNameError):
            ApiKeys(self.redis).revoke("shop")
        self.service.registry.undrain(WORKER)
        for task_id in self.made:
            self.service.store.cancel(task_id)
            self.service.store.drop_dead(task_id)
        self.redis.delete(*_lists(IDLE_QUEUE))


def _lists(queue: str) -> list[str]:
    return [list_key(f"{queue}|{int(step)}") for step in Priority]


@pytest.fixture
def scene(service: RunningService, coffee: Path) -> Iterator[Scene]:
    with connect(service.env["RMBG_REDIS_URL"]) as redis:
        scene = Scene(service, redis, coffee)
        for task_id in service.store.dead():
            service.store.drop_dead(task_id)
        yield scene
        scene.clear()


def _queued_again(scene: Scene, task_id: str, _: str) -> None:
    assert scene.status(task_id) == Status.QUEUED
    assert task_id in scene.messages(IDLE_QUEUE)
    assert scene.service.store.dead() == []


def _dropped(scene: Scene, task_id: str, _: str) -> None:
    assert scene.status(task_id) == Status.FAILED
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


def _listed(_: Scene, name: str, said: str) -> None:
    assert name in said


def _stuck(_: Scene, task_id: str, said: str) -> None:
    (line,) = [line for line in said.splitlines() if task_id in line]
    assert "unreadable_record" in line


def _is_drained(scene: Scene, _: str, said: str) -> None:
    assert f"drained  {WORKER}" in said
    (worker,) = [each for each in scene.service.registry.workers() if each.name == WORKER]
    assert (bool(worker.drained), worker.usable) == (True, False)


def _takes_jobs_again(scene: Scene, _: str, said: str) -> None:
    assert f"undrained  {WORKER}" in said
    assert scene.service.registry.drained(WORKER) == ""
    assert scene.status(scene.succeeded()) == Status.SUCCEEDED


def _ends_well(_: Scene, __: str, said: str) -> None:
    assert '"code":4' not in said


Before = Callable[[Scene], str]
After = Callable[[Scene, str, str], None]
#: Words of a command, what has to be there before it, and what it must have done. The first that
#: fits counts; `$TASK_ID` and the like stand for what the second one returns.
_SCENES: tuple[tuple[str, Before, After], ...] = (
    ("jobs dead requeue", Scene.dead, _queued_again),
    ("jobs dead drop", Scene.dead, _dropped),
    ("jobs dead list", Scene.dead, _listed),
    ("jobs requeue --failed", Scene.dead, _queued_again),
    ("jobs requeue", Scene.canceled, _queued_again),
    ("jobs cancel", Scene.waiting, _canceled),
    ("jobs purge --queue model.u2netp", Scene.waiting_for_the_model, _queue_purged),
    ("jobs purge --queue", Scene.waiting, _queue_purged),
    ("jobs purge --status", Scene.waiting, _all_purged),
    (" purge -f", Scene.waiting, _still_waiting),
    ("jobs list --status failed", Scene.dead, _listed),
    ("jobs list --status queued", Scene.waiting, _listed),
    ("jobs list", Scene.succeeded, _listed),
    ("jobs show", Scene.waiting, _listed),
    ("jobs stuck", Scene.unreadable, _stuck),
    ("jobs drain", Scene.worker, _is_drained),
    ("jobs undrain", Scene.drained, _takes_jobs_again),
    ("jobs workers", Scene.worker, _listed),
    ("$WEBHOOK_ID", Scene.notifying, _listed),
    ("keys rotate-secret", Scene.keyed, _ends_well),
    ("keys revoke", Scene.keyed, _ends_well),
    ("keys list", Scene.keyed, _listed),
    ("$BATCH_ID", Scene.batch, _ends_well),
    ("$TASK_ID", Scene.succeeded, _ends_well),
    ("", Scene.worker, _ends_well),
)


def test_commands_are_found_in_each_document() -> None:
    assert min(len(_commands(document)) for document in DOCUMENTS) >= 3
    about_jobs = [command for command in COMMANDS if "tasks.app jobs" in command]
    assert len(about_jobs) >= 20
    specific = [words for words, _, after in _SCENES if after is not _ends_well]
    assert all(any(words in command for words in specific) for command in about_jobs)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works_as_it_is_written(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    before, after = next((b, a) for words, b, a in _SCENES if words in command)
    name = before(scene)
    _furnish(tmp_path, scene.service)
    monkeypatch.chdir(tmp_path)
    variables = {"WEBHOOK_ID": f"msg_{name}_1", "WORKER": WORKER, "QUEUE": IDLE_QUEUE}
    variables |= dict.fromkeys(("TASK_ID", "BATCH_ID"), name)
    for variable, value in {**scene.service.env, "RMBG_URL": scene.service.url}.items():
        monkeypatch.setenv(variable, value)
    command = command.replace("http://127.0.0.1:8000", scene.service.url)
    # A benchmark of fewer and smaller pictures runs the same code.
    command = command.replace("--size 256 --runs 3", "--size 64 --runs 1")
    run = _run_in_a_shell if _IN_A_SHELL.match(command) else _run_here
    status, said, errors = run(command, variables)
    assert status == 0, errors + said
    for target in re.findall(r" -o (\S+)", command):
        assert Path(target).exists()
    after(scene, name, said)


def _furnish(folder: Path, service: RunningService) -> None:
    """Make what a reader has in the folder; of the photos only those that commands name."""
    photos = folder / "tests" / "data"
    photos.mkdir(parents=True)
    for name in ("coffee.jpg", "chelsea.jpg"):
        (photos / name).symlink_to(DATA / name)
    (folder / "data").mkdir()
    write_shell_file(folder / "data", service.env)


def _run_in_a_shell(command: str, variables: dict[str, str]) -> tuple[int, str, str]:
    for program in ("rmbg", "celery"):
        command = command.replace(f".venv/bin/{program}", script(program))
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}}
    done = subprocess.run(
        # In one shell, as a reader would: the settings first.
        ["bash", "-euc", f". data/{SHELL_FILE}\n{command}"],
        env={**kept, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def _run_here(command: str, variables: dict[str, str]) -> tuple[int, str, str]:
    program, *arguments = shlex.split(Template(command).substitute(variables))
    if program == ".venv/bin/rmbg":
        result = TyperRunner().invoke(rmbg, arguments)
    else:
        assert (program, *arguments[:2]) == (".venv/bin/celery", "-A", "tasks.app")
        with create_celery(Settings.load()) as celery:
            context = CLIContext(app=celery, no_color=True, workdir=None)
            result = CliRunner().invoke(_CELERY[arguments[2]], arguments[3:], obj=context)
    return result.exit_code, result.stdout, f"{result.stderr}{result.exception!r}"
