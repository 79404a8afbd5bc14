"""Run the whole service on this machine: start it, cut out a sample photo, wait for Ctrl-C."""

import asyncio
import io
import secrets
import signal
import time
from collections.abc import Iterable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final, cast

from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from api.settings import ApiSettings
from deploy.client import ClientError, ServiceClient
from deploy.local.data_folder import DataFolder, open_data_folder, write_shell_file, write_targets
from deploy.local.ports import reserved_ports
from deploy.local.service import SelfCheckError, SetupError, StackError
from deploy.local.stack import (
    FLOWER_PASSWORD,
    FLOWER_USER,
    Ports,
    Stack,
    UpOptions,
    child_environment,
    plan_stack,
)
from deploy.local.supervisor import Child, ChildState, Supervisor
from inference.errors import ModelError
from inference.models.registry import get_spec
from inference.models.weights import check_weights
from tasks.errors import SettingsError
from tasks.runtime import Runtime

#: The addresses, for scripts: written once all is ready, and removed at the end.
RUN_FILE: Final = "run.json"
#: How the names of the self-check's own keys begin.
_SELF_CHECK: Final = "self-check-"
_PORTS_FILE: Final = "ports.json"

#: The self-check wants one pixel with an alpha of at most the first, one of at least the second.
_NEARLY_TRANSPARENT: Final = 10
_NEARLY_OPAQUE: Final = 245

#: The colours of the processes' names.
_COLORS: Final = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green")
_NAME_WIDTH: Final = 7


class Screen:
    """Prints to one console, in colour if it is a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._styles: dict[str, str] = {"rmbg": "bold"}

    @property
    def is_terminal(self) -> bool:
        """Whether the output goes to a terminal."""
        return self._console.is_terminal

    def line(self, name: str, text: str) -> None:
        """Print one line of a process behind its name, neither wrapped nor read for markup."""
        style = self._styles.setdefault(name, _COLORS[len(self._styles) % len(_COLORS)])
        line = Text.assemble((f"{name:<{_NAME_WIDTH}} | ", style), Text.from_ansi(text))
        self._console.print(line, soft_wrap=True, highlight=False)

    def table(self, children: Iterable[Child]) -> None:
        """Print name, process id, address and state of each process."""
        table = Table("name", "pid", "address", "state")
        for child in children:
            color = "green" if child.state is ChildState.READY else "yellow"
            state = f"[{color}]{child.state}[/]"
            service = child.service
            table.add_row(service.name, str(child.pid or "-"), escape(service.address), state)
        self._console.print(table)

    def ready(self, api_url: str, flower_url: str | None, cutout: Path, model: str) -> None:
        """Print the addresses, once all processes are ready and the self-check has passed."""
        login = f"(user {FLOWER_USER}, password in {cutout.parent / FLOWER_PASSWORD})"
        better = get_spec(model).next_better
        hint = f"; finer, and slower: make up MODEL={better}" if better else ""
        lines = [
            f"ready: {api_url}",
            f"  model          {model}{hint} (docs/choosing-a-model.md)",
            f"  documentation  {api_url}/docs",
            *([f"  Flower         {flower_url} {login}"] if flower_url else []),
            f"  sample cutout  {cutout}",
            f"  try it         curl -F image=@photo.jpg {api_url}/api/v1/remove-bg",
            "Press Ctrl-C to stop all processes.",
        ]
        self._console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)

    def error(self, error: Exception) -> None:
        """Print why the service cannot run."""
        self._console.print(str(error), style="red", soft_wrap=True, highlight=False, markup=False)


def run_up(options: UpOptions, screen: Screen) -> int:
    """Run the service until Ctrl-C or SIGTERM, and return the exit status."""
    try:
        given = _load_settings(options, screen)
        spec = get_spec(given.model)
        check_weights(spec, given.model_file(spec.file_name))
        with (
            open_data_folder(options.data) as folder,
            reserved_ports(folder.read_json(_PORTS_FILE).get("first")) as free,
        ):
            # The next start takes the same ports, so that addresses handed out stay valid.
            folder.write_json(_PORTS_FILE, {"first": free[0]})
            stack = plan_stack(options, given, folder.path, Ports.choose(options, free))
            write_shell_file(folder.path, child_environment(stack.settings, options.workers))
            write_targets(folder.path, stack.services)
            asyncio.run(_run(options, stack, folder, screen))
    except StackError as error:
        screen.error(error)
        return error.exit_code
    except (SettingsError, ModelError) as error:
        screen.error(error)
        return SetupError.exit_code
    return 0


def _load_settings(options: UpOptions, screen: Screen) -> ApiSettings:
    """Load the settings with the command's options on top."""
    chosen: dict[str, Any] = {
        "model": options.model,
        "redis_url": options.redis_url,
        "s3_endpoint": options.s3_endpoint,
    }
    settings = ApiSettings.load(**{name: value for name, value in chosen.items() if value})
    if settings.log_format == "auto" and screen.is_terminal:
        # The children write to pipes, and would take the format for machines.
        return settings.model_copy(update={"log_format": "console"})
    return settings


async def _run(options: UpOptions, stack: Stack, folder: DataFolder, screen: Screen) -> None:
    """Start all processes, and run until the first signal or the failure of one's supervision."""
    supervisor = Supervisor(screen.line, inherited=[folder.lock])
    stop_requested = _on_signals(supervisor)
    stopping = asyncio.create_task(stop_requested.wait())
    # An `rmbg up` that was killed has left its own.
    folder.delete(RUN_FILE)
    running = asyncio.create_task(_start_and_watch(options, stack, folder, screen, supervisor))
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        running.cancel()
        stopping.cancel()
        screen.line("rmbg", "stopping all processes; Ctrl-C again kills them at once")
        await supervisor.stop()
        folder.delete(RUN_FILE)
        screen.line("rmbg", "all processes have stopped")


def _on_signals(supervisor: Supervisor) -> asyncio.Event:
    """Return an event that the first signal sets; the second signal kills all children."""
    stop_requested = asyncio.Event()

    def on_signal() -> None:
        if stop_requested.is_set():
            supervisor.kill()
        stop_requested.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    return stop_requested


async def _start_and_watch(
    options: UpOptions, stack: Stack, folder: DataFolder, screen: Screen, supervisor: Supervisor
) -> None:
    """Start servers, then services, run the self-check, show and store the addresses, and watch."""
    deadline = time.monotonic() + options.start_seconds
    await supervisor.start(stack.servers, seconds=options.start_seconds)
    await supervisor.start(stack.services, seconds=max(1.0, deadline - time.monotonic()))
    screen.table(supervisor.children)
    await asyncio.to_thread(check_stack, stack, folder.sample_cutout)
    folder.write_json(RUN_FILE, {"api_url": stack.api_url, "flower_url": stack.flower_url})
    screen.ready(stack.api_url, stack.flower_url, folder.sample_cutout, stack.settings.model)
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
    with as_file(sample) as photo, ServiceClient(api_url, api_key=api_key) as client:
        try:
            cutout = client.cut_out(photo, {"cache": "false"})
        except ClientError as error:
            raise SelfCheckError(f"The sample photo was not cut out: {error}") from error
        with Image.open(photo) as image:
            size = image.size
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
