"""The commands of the README and the docs are run as they stand, against the real service.

Commands of `rmbg` and `celery` run in this process, but for one of each kind, which runs in a shell
as `curl` does.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
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
from deploy.local.data_folder import SHELL_FILE, write_shell_file
from deploy.local.service import script
from rmbg_client import Client
from tasks import redis_keys
from tasks.api_keys import ApiKeys
from tasks.app import create_celery
from tasks.cli.jobs import jobs
from tasks.cli.webhooks import webhooks
from tasks.errors import KeyNameError
from tasks.housekeeping.missing_messages import list_key
from tasks.jobs.job import Priority
from tasks.redis_client import connect
from tasks.settings import Settings
from tests.support.commands import crash
from tests.support.jobs import make_job
from tests.support.paths import DATA, ROOT
from tests.support.programs import run_program
from tests.support.service import WORKER, RunningService

DOCUMENTS = (
    "README.md",
    "docs/api.md",
    "docs/operations.md",
    "docs/models.md",
    "docs/removebg.md",
    "docs/keys.md",
    "docs/webhooks.md",
    "docs/command-line.md",
    "docs/alerts.md",
    "docs/one-gpu.md",
    "docs/eight-gpus.md",
    "docs/own-servers.md",
)
#: A comment before a block says where else it is run.
_BLOCK = re.compile(r"^(?<!-->\n) *```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
#: `make up` is run by test_up.py, a model's benchmark by tests/unit/deploy/cli/test_bench.py;
#: `make test` and `make lint` are how this test is run.
_RUN_ELSEWHERE = re.compile(r"make (up|test|lint|install|bench|test-slow)\b|\S+/rmbg bench model ")
_IN_A_SHELL = re.compile(
    r"curl |set |\. |\(umask |\S+/rmbg doctor$"
    r"|\S+/celery -A tasks.app (jobs workers|webhooks list)$"
)
_CELERY: dict[str, click.Command] = {"jobs": jobs, "webhooks": webhooks, "purge": purge}
PHOTO = DATA / "coffee.jpg"
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
    made: list[str] = field(default_factory=list)

    def make(self, what: str) -> str:
        """Make something of a kind, or put it into a state; its name or id."""
        store = self.service.store
        if what == "key":
            ApiKeys(self.redis).add("shop")
            return "shop"
        if what == "worker":
            return WORKER
        if what == "drained worker":
            self.service.registry.drain(WORKER, "by a test")
            return WORKER
        if what == "batch":
            with Client(self.service.url) as client:
                batch = client.submit_batch([PHOTO])
                return client.wait_batch(batch.batch_id).batch_id
        if what == "succeeded":
            return str(self.service.client.wait(self.service.client.submit(PHOTO, {}))["task_id"])
        # The owner of a webhook has no secret to sign it, so it is soon given up.
        notified = {"webhook_url": "http://127.0.0.1:9/", "owner": "nobody"}
        facts = notified if what == "webhook" else {}
        task_id = store.create(make_job(model=IDLE_MODEL, queue=IDLE_QUEUE, **facts)).job.task_id
        self.made.append(task_id)
        if what in {"canceled", "webhook"}:
            store.cancel(task_id)
        elif what == "dead":
            crash(store, task_id)
        elif what == "unreadable":
            self.redis.hset(redis_keys.job_key(task_id), "options", "{no json")
        return task_id

    def clear(self) -> None:
        with suppress(KeyNameError):
            ApiKeys(self.redis).revoke("shop")
        self.service.registry.undrain(WORKER)
        for task_id in self.made:
            self.service.store.cancel(task_id)
            self.service.store.drop_dead(task_id)
        self.redis.delete(*(list_key(f"{IDLE_QUEUE}|{int(step)}") for step in Priority))


@pytest.fixture
def scene(service: RunningService) -> Iterator[Scene]:
    with connect(service.env["RMBG_REDIS_URL"]) as redis:
        scene = Scene(service, redis)
        for task_id in service.store.dead():
            service.store.drop_dead(task_id)
        yield scene
        scene.clear()


#: Words of a command, what has to be there before it, and what it must say: what it does is tested
#: with the command. The first that fits counts; `$TASK_ID` and the like, and `{}`, stand for the
#: name of what was made.
_SCENES: tuple[tuple[str, str, str], ...] = (
    ("jobs dead requeue", "dead", "requeued  {}"),
    ("jobs dead drop", "dead", "dropped  {}"),
    ("jobs dead list", "dead", "{}"),
    ("jobs requeue --failed", "dead", "requeued  {}"),
    ("jobs requeue", "canceled", "requeued  {}"),
    ("jobs cancel", "waiting", "canceled  {}"),
    ("jobs purge --queue", "waiting", f"messages removed from {IDLE_QUEUE}"),
    ("jobs purge --status", "waiting", "canceled  {}"),
    ("jobs list --status failed", "dead", "{}"),
    ("jobs list --status queued", "waiting", "{}"),
    ("jobs list", "succeeded", "{}"),
    ("jobs show", "waiting", "{}"),
    ("jobs stuck", "unreadable", "{}"),
    ("jobs drain", "worker", "drained  {}"),
    ("jobs undrain", "drained worker", "undrained  {}"),
    ("jobs workers", "worker", "{}"),
    ("jobs trust-clock", "worker", "trusted  "),
    ("$WEBHOOK_ID", "webhook", "{}"),
    ("keys rotate-secret", "key", ""),
    ("keys revoke", "key", ""),
    ("keys set-quotas", "key", ""),
    ("keys list", "key", "{}"),
    ("$BATCH_ID", "batch", ""),
    ("$TASK_ID", "succeeded", ""),
    ("", "worker", ""),
)


def test_commands_are_found_in_each_document() -> None:
    assert min(len(_commands(document)) for document in DOCUMENTS) >= 2
    about_jobs = [command for command in COMMANDS if "tasks.app jobs" in command]
    assert len(about_jobs) >= 20
    specific = [words for words, _, said in _SCENES if said]
    assert all(any(words in command for words in specific) for command in about_jobs)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works_as_it_is_written(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    before, wanted = next((before, said) for words, before, said in _SCENES if words in command)
    name = scene.make(before)
    _furnish(tmp_path, scene.service)
    monkeypatch.chdir(tmp_path)
    variables = {"WEBHOOK_ID": f"msg_{name}_1", "WORKER": WORKER, "QUEUE": IDLE_QUEUE}
    variables |= dict.fromkeys(("TASK_ID", "BATCH_ID"), name)
    for variable, value in {**scene.service.env, "RMBG_URL": scene.service.url}.items():
        monkeypatch.setenv(variable, value)
    command = command.replace("http://127.0.0.1:8000", scene.service.url)
    run = _run_in_a_shell if _IN_A_SHELL.match(command) else _run_here
    status, said, errors = run(command, variables)
    assert status == 0, errors + said
    for target in re.findall(r" -o (\S+)", command):
        assert Path(target).exists()
    assert wanted.format(name) in said
    assert '"code":4' not in said


def _furnish(folder: Path, service: RunningService) -> None:
    """Make what a reader has in the folder; of the photos only those that commands name."""
    photos = folder / "tests" / "data"
    photos.mkdir(parents=True)
    for name in ("coffee.jpg", "chelsea.jpg"):
        (photos / name).symlink_to(DATA / name)
    (folder / "data").mkdir()
    write_shell_file(folder / "data", service.env)
    (folder / "keys.json").write_text('{"keys": []}')
    given = (f"{name}={value}" for name, value in service.env.items())
    (folder / "rmbg.env").write_text("\n".join(given))


def _run_in_a_shell(command: str, variables: dict[str, str]) -> tuple[int, str, str]:
    for program in ("rmbg", "celery"):
        command = command.replace(f".venv/bin/{program}", shlex.quote(script(program)))
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}}
    # In one shell, as a reader would: the settings first.
    here = f". data/{SHELL_FILE}\n{command}"
    done = run_program("bash", "-euc", here, env={**kept, **variables}, stdin=subprocess.DEVNULL)
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
