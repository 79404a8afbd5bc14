"""Run the whole service on this machine: start it, cut out a sample photo, wait for Ctrl-C."""

import asyncio
import io
import resource
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final, cast

import structlog
from PIL import Image, UnidentifiedImageError

from api.settings import ApiSettings
from deploy.local.data_folder import DataFolder, open_data_folder, write_shell_file, write_targets
from deploy.local.ports import reserved_ports
from deploy.local.screen import LOGS, Facts, Screen
from deploy.local.service import SelfCheckError, SetupError, StackError, StartError
from deploy.local.stack import (
    Ports,
    Stack,
    UpOptions,
    child_environment,
    choose_workers,
    plan_stack,
)
from deploy.local.supervisor import SUPERVISOR, Supervisor
from inference.errors import ModelError
from inference.models.registry import get_spec
from inference.models.weights import check_weights
from rmbg_client import Client, RmbgError
from tasks.errors import QueueUnavailableError, SettingsError
from tasks.jobs.job import Status
from tasks.jobs.store import JobStore
from tasks.redis_client import connect
from tasks.runtime import Runtime

#: The addresses, for scripts: written once all is ready, and removed at the end.
RUN_FILE: Final = "run.json"
#: How the names of the self-check's own keys begin.
_SELF_CHECK: Final = "self-check-"
_PORTS_FILE: Final = "ports.json"

#: The self-check wants one pixel with an alpha of at most the first, one of at least the second.
_NEARLY_TRANSPARENT: Final = 10
_NEARLY_OPAQUE: Final = 245
#: The open files that each process may have, and the limit below which the servers do not start.
_OPEN_FILES: Final = 65_536
_LEAST_OPEN_FILES: Final = 1024
#: How long Redis may take to say how many jobs there are.
_COUNT_SECONDS: Final = 1.0


def run_up(options: UpOptions, screen: Screen) -> int:
    """Run the service until Ctrl-C or SIGTERM, and return the exit status."""
    try:
        with _log_lines_on(screen):
            _prepare_and_run(options, screen)
    except StackError as error:
        screen.error(error)
        return error.exit_code
    except (SettingsError, ModelError) as error:
        screen.error(error)
        return SetupError.exit_code
    return 0


def _prepare_and_run(options: UpOptions, screen: Screen) -> None:
    """Check settings, model and folder, plan the processes, write the files for others, and run."""
    allow_open_files()
    given = _load_settings(options)
    spec = get_spec(given.model)
    check_weights(spec, given.model_file(spec.file_name))
    options = replace(options, workers=options.workers or choose_workers(given))
    with (
        open_data_folder(options.data) as folder,
        reserved_ports(folder.read_json(_PORTS_FILE).get("first")) as free,
    ):
        try:
            # The next start takes the same ports, so that addresses handed out stay valid.
            folder.write_json(_PORTS_FILE, {"first": free[0]})
            stack = plan_stack(options, given, folder.path, Ports.choose(options, free))
            write_shell_file(folder.path, child_environment(stack.settings, options.workers))
            write_targets(folder.path, stack.services)
        except OSError as error:
            name = error.filename or folder.path
            raise SetupError(f"{name} cannot be written: {error.strerror}.") from error
        asyncio.run(_run_on_screen(stack, folder, screen))


def allow_open_files(least: int = _LEAST_OPEN_FILES) -> None:
    """Let this process and its children open as many files as the system allows them.

    Raises:
        SetupError: these are too few for the servers, which would only say that a file failed.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < least:
        raise SetupError(
            f"A process may open {most:,} files here, and {least:,} are needed: "
            f"raise that limit, as by `ulimit -n {least}`, or `LimitNOFILE` of a systemd unit."
        )
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(most, _OPEN_FILES)
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


@contextmanager
def _log_lines_on(screen: Screen) -> Iterator[None]:
    """Hand what this process logs in the block to the screen, as lines without a time."""

    def show(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
        facts = " ".join(f"{name}={value}" for name, value in event.items() if name != "event")
        screen.line(SUPERVISOR, f"{event.get('event')} {facts}".rstrip())
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[show])
    try:
        yield
    finally:
        structlog.configure(**before)


def _load_settings(options: UpOptions) -> ApiSettings:
    """Load the settings with the command's options on top."""
    chosen: dict[str, Any] = {
        "model": options.model,
        "redis_url": options.redis_url,
        "s3_endpoint": options.s3_endpoint,
    }
    settings = ApiSettings.load(**{name: value for name, value in chosen.items() if value})
    if settings.log_format == "auto":
        # The children write to pipes, and would take the format for machines.
        return settings.model_copy(update={"log_format": "console"})
    return settings


async def _run_on_screen(stack: Stack, folder: DataFolder, screen: Screen) -> None:
    """Run the processes, and show them on the screen from their start to their end."""
    supervisor = Supervisor(screen.line, inherited=[folder.lock])
    model = stack.settings.model
    better = get_spec(model).next_better
    facts = Facts(stack.api_url, stack.flower_url, model, better, folder.path)
    # An `rmbg up` that was killed has left its own.
    folder.delete(RUN_FILE)
    try:
        with screen.showing(facts, lambda: supervisor.children):
            await _run_until_stopped(stack, folder, screen, supervisor)
    except StartError as error:
        raise StartError(f"{error}\nAll that was logged is in {folder.path / LOGS}.") from error
    screen.stopped()


async def _run_until_stopped(
    stack: Stack, folder: DataFolder, screen: Screen, supervisor: Supervisor
) -> None:
    """Start all processes, and run until the first signal or the failure of one's supervision."""
    stop_requested = _on_signals(supervisor, screen)
    stopping = asyncio.create_task(stop_requested.wait())
    drawing = asyncio.create_task(screen.keep_drawn(_count_jobs(stack.settings)))
    running = asyncio.create_task(_start_and_watch(stack, folder, screen, supervisor))
    error: BaseException | None = None
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            error = running.exception()
            running.result()
    finally:
        running.cancel()
        stopping.cancel()
        screen.stopping(error)
        await supervisor.stop()
        drawing.cancel()
        folder.delete(RUN_FILE)


def _count_jobs(settings: ApiSettings) -> Callable[[], dict[Status, int] | None]:
    """Return a function that counts the jobs by status; None while Redis does not answer."""
    store = JobStore(connect(settings.redis_address, timeout=_COUNT_SECONDS))

    def count() -> dict[Status, int] | None:
        try:
            return store.counts()
        except QueueUnavailableError:
            return None

    return count


def _on_signals(supervisor: Supervisor, screen: Screen) -> asyncio.Event:
    """Return an event that the first signal sets; the second signal kills all children."""
    stop_requested = asyncio.Event()

    def on_signal() -> None:
        if stop_requested.is_set():
            supervisor.kill()
        stop_requested.set()

    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` sets it
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGWINCH, screen.redraw)
    return stop_requested


async def _start_and_watch(
    stack: Stack, folder: DataFolder, screen: Screen, supervisor: Supervisor
) -> None:
    """Start servers, then services, run the self-check, show and store the addresses, and watch."""
    deadline = time.monotonic() + stack.start_seconds
    await supervisor.start(stack.servers, seconds=stack.start_seconds)
    await supervisor.start(stack.services, seconds=max(1.0, deadline - time.monotonic()))
    await asyncio.to_thread(check_stack, stack, folder.sample_cutout)
    screen.ready()
    folder.write_json(RUN_FILE, {"api_url": stack.api_url, "flower_url": stack.flower_url})
    await supervisor.wait_for_failure()


def check_stack(stack: Stack, target: Path) -> None:
    """Run the self-check; where a key is needed, with one that is revoked after it.

    Raises:
        SelfCheckError: the service failed, or the result is not a cutout of the sample photo.
    """
    if stack.settings.auth == "off" or "auth" not in stack.settings.model_fields_set:
        run_self_check(stack.api_url, target)
        return
    with Runtime(stack.settings) as runtime:
        if stack.settings.auth == "auto" and not runtime.api_keys.any():
            run_self_check(stack.api_url, target)
            return
        # Two services that share a Redis may start at once.
        name = f"{_SELF_CHECK}{secrets.token_hex(4)}"
        _, key = runtime.api_keys.add(name)
        try:
            run_self_check(stack.api_url, target, key)
        finally:
            runtime.api_keys.revoke(name)


def run_self_check(api_url: str, target: Path, api_key: str | None = None) -> None:
    """Cut out the bundled photo through the API, check the cutout, and write it to `target`.

    Raises:
        SelfCheckError: the service failed, or the result is not a cutout of that photo.
    """
    sample = files("deploy.local").joinpath("sample.jpg")
    try:
        with as_file(sample) as photo, Client(api_url, api_key=api_key) as client:
            cutout = client.remove(photo, cache=False)
            with Image.open(photo) as image:
                size = image.size
    except (RmbgError, ValueError) as error:
        raise SelfCheckError(f"The sample photo was not cut out: {error}") from error
    check_cutout(cutout, size)
    target.write_bytes(cutout)


def check_cutout(content: bytes, size: tuple[int, int]) -> None:
    """Check that a file is an RGBA PNG of this width and height, partly transparent and opaque.

    Raises:
        SelfCheckError: it is not.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.format != "PNG" or image.mode != "RGBA" or image.size != size:
                raise SelfCheckError(
                    f"The sample photo's result is {image.format} {image.mode} of "
                    f"{image.width}×{image.height}, not PNG RGBA of {size[0]}×{size[1]}."
                )
            low, high = cast("tuple[int, int]", image.getchannel("A").getextrema())
    except UnidentifiedImageError as error:
        raise SelfCheckError("The sample photo's result is no image.") from error
    if low > _NEARLY_TRANSPARENT or high < _NEARLY_OPAQUE:
        raise SelfCheckError(
            f"The sample photo's alpha runs from {low} to {high}: nothing was cut out."
        )
