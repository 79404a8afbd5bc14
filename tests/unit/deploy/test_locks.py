"""The lock files of the images agree with pyproject.toml and constraints.txt."""

import re
import sys
import tomllib
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT
from tests.support.programs import run_program

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ROOT / "deploy/docker/locks"
#: The extra of each image, by its lock file.
EXTRAS = {"api": "flower", "cpu": "cpu", "torch": "torch"}


def _pins(path: Path) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)==([\w.+-]+)", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


@pytest.mark.parametrize("path", sorted(LOCKS.iterdir()), ids=lambda path: path.stem)
def test_a_lock_has_the_versions_of_constraints_and_a_hash_for_each(path: Path) -> None:
    constrained = _pins(ROOT / "constraints.txt")
    pins = _pins(path)
    differ = {name: pin for name, pin in pins.items() if constrained.get(name, pin) != pin}
    assert not differ, "run `make lock`"
    text = path.read_text()
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins)
    hashed = r"(?:[^\\\n]+ \\\n)(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+"
    assert [entry for entry in entries if not re.fullmatch(hashed, entry)] == []
    assert "://" not in text, "an address of an index"


@pytest.mark.parametrize(("lock", "extra"), [*EXTRAS.items(), ("api", "hub")])
def test_a_lock_has_all_that_its_image_needs_directly(lock: str, extra: str) -> None:
    pins = _pins(LOCKS / f"{lock}.txt")
    project = PROJECT["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"][extra]]:
        needed = Requirement(line)
        assert needed.specifier.contains(pins[canonicalize_name(needed.name)]), line


def test_the_locks_are_those_that_are_installed() -> None:
    (build,) = (Requirement(line) for line in PROJECT["build-system"]["requires"])
    assert build.specifier.contains(_pins(LOCKS / "build.txt")[build.name])
    assert {path.stem for path in LOCKS.iterdir()} == {"build", *EXTRAS}
    assert not {"torch", "mnn", "numpy"} & _pins(LOCKS / "api.txt").keys(), "a model library"
    assert "onnxruntime" not in _pins(LOCKS / "cpu.txt"), "for GPUs"


def test_the_first_release_of_the_oldest_python_installs_all_that_is_pinned() -> None:
    # Debian 12 has Python 3.11.2, and a dependency may ask for a later one than that.
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    pinned = _pins(ROOT / "constraints.txt")
    installed = {canonicalize_name(each.name): each.metadata for each in distributions()}
    asks = {name: installed[name].get("Requires-Python") for name in installed.keys() & pinned}
    assert len(asks) > 100, "of what the tests need"
    later = {n: ask for n, ask in asks.items() if ask and f"{oldest}.0" not in SpecifierSet(ask)}
    assert not later


#: What the API's image runs: API, I/O worker, Flower and commands.
_PROCESSES = """
import importlib, sys
sys.modules.update(dict.fromkeys(sys.argv[1].split()))
from celery.utils.imports import symbol_by_name
from tasks.app import app
app.loader.import_default_modules()
for step in app.steps["worker"]:
    symbol_by_name(step)
for module in ("api.app", "api.gunicorn_conf", "flower.command", "tasks.cli.jobs"):
    importlib.import_module(module)
for module in ("main", "remove", "models", "keys", "bucket", "health"):
    importlib.import_module(f"deploy.cli.{module}")
"""


def test_the_apis_image_has_all_that_its_processes_import() -> None:
    # redis asks for async-timeout before Python 3.11.3; the images have 3.12.
    image = {*_pins(LOCKS / "api.txt"), "rmbg-queue", "async-timeout"}
    missing = {
        module
        for module, owners in packages_distributions().items()
        if module.isidentifier() and not image & {canonicalize_name(each) for each in owners}
    }
    assert "numpy" in missing
    done = run_program(sys.executable, "-c", _PROCESSES, " ".join(missing), cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
