"""One run of the stack, from the first port to the last process."""

import asyncio
import signal
import time
from typing import Any, Final

from deploy.local.errors import SetupError, StackError
from deploy.local.folder import DataFolder, data_folder
from deploy.local.options import UpOptions
from deploy.local.ports import reserved_ports
from deploy.local.screen import Screen
from deploy.local.selfcheck import cut_out_sample
from deploy.local.shell import write_shell_file
from deploy.local.stack import Ports, Stack, child_environment, plan_stack
from deploy.local.supervisor import Supervisor
from deploy.local.targets import write_targets
from inference.errors import ModelError
from inference.models.files import check_weights
from inference.models.registry import get_spec
from tasks.errors import SettingsError
from tasks.settings import Settings

#: For scripts: the addresses, written when everything is ready and removed at the end.
RUN_FILE: Final = "run.json"
_PORTS_FILE: Final = "ports.json"


def run_up(options: UpOptions, screen: Screen) -> int:
    """Run until Ctrl-C or SIGTERM; the exit status."""
    try:
        given = _settings(options, screen)
        _require_model(given)
        with (
            data_folder(options.data) as folder,
            reserved_ports(folder.recall(_PORTS_FILE).get("first")) as free,
        ):
            # The same ports at the next start: addresses that were given out stay good.
            folder.remember(_PORTS_FILE, {"first": free[0]})
            stack = plan_stack(options, given, folder.path, Ports.choose(options, free))
            write_shell_file(folder.path, child_environment(stack.settings, options.workers))
            write_targets(folder.path, stack.services)
            asyncio.run(_run(options, stack, folder, screen))
    except StackError as error:
        screen.fault(error)
        return error.exit_code
    except (SettingsError, ModelError) as error:
        screen.fault(error)
        return SetupError.exit_code
    return 0


def _settings(options: UpOptions, screen: Screen) -> Settings:
    chosen: dict[str, Any] = {
        "model": options.model,
        "redis_url": options.redis_url,
        "s3_endpoint": options.s3_endpoint,
    }
    given = Settings.load(**{name: value for name, value in chosen.items() if value})
    if given.log_format == "auto" and screen.is_terminal:
        # The children write into pipes and cannot see who reads them.
        return given.model_copy(update={"log_format": "console"})
    return given


def _require_model(settings: Settings) -> None:
    spec = get_spec(settings.model)
    check_weights(spec, settings.model_file(spec.file_name))


async def _run(options: UpOptions, stack: Stack, folder: DataFolder, screen: Screen) -> None:
    supervisor = Supervisor(screen.line, inherited=[folder.lock])
    told = _on_signals(supervisor)
    # One that was killed could not do so itself.
    folder.forget(RUN_FILE)
    try:
        await _until(told, _start(options, stack, folder, screen, supervisor))
        if not told.is_set():
            await _until(told, supervisor.failure())
    finally:
        screen.line("rmbg", "ending everything; Ctrl-C again kills at once")
        await supervisor.stop()
        folder.forget(RUN_FILE)
        screen.line("rmbg", "everything has ended")


def _on_signals(supervisor: Supervisor) -> asyncio.Event:
    """Set by the first signal to end; a second one kills without grace."""
    told = asyncio.Event()

    def on_signal() -> None:
        if told.is_set():
            supervisor.kill()
        told.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    return told


async def _until(told: asyncio.Event, work: Any) -> None:  # noqa: ANN401 - any coroutine
    """Work until it is done or we are told to end; what it raises is raised."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(told.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        waiting.cancel()


async def _start(
    options: UpOptions,
    stack: Stack,
    folder: DataFolder,
    screen: Screen,
    supervisor: Supervisor,
) -> None:
    end = time.monotonic() + options.start_seconds
    await supervisor.start(stack.servers, seconds=options.start_seconds)
    await supervisor.start(stack.services, seconds=max(1.0, end - time.monotonic()))
    screen.table(supervisor.children)
    await asyncio.to_thread(cut_out_sample, stack.api_url, folder.sample_cutout)
    folder.remember(RUN_FILE, {"api_url": stack.api_url, "flower_url": stack.flower_url})
    screen.ready(stack.api_url, stack.flower_url, folder.sample_cutout)
