"""Run the whole service on this machine: start it, cut out a sample photo, wait for Ctrl-C."""

import asyncio
import io
import signal
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final, cast

from PIL import Image, UnidentifiedImageError

from deploy.client import ClientError, ServiceClient
from deploy.local.data_folder import DataFolder, open_data_folder, write_shell_file, write_targets
from deploy.local.ports import reserved_ports
from deploy.local.screen import Screen
from deploy.local.service import SelfCheckError, SetupError, StackError
from deploy.local.stack import Ports, Stack, UpOptions, child_environment, plan_stack
from deploy.local.supervisor import Supervisor
from inference.errors import ModelError
from inference.models.registry import get_spec
from inference.models.weights import check_weights
from tasks.errors import SettingsError
from tasks.settings import Settings

#: Alpha of a background and of a subject; a matte may miss both ends by a little.
_NEARLY_CLEAR: Final = 10

_NEARLY_SOLID: Final = 245


def run_self_check(api_url: str, target: Path) -> None:
    """Send the bundled photo, fetch its cutout, look at it and keep it.

    Raises:
        SelfCheckError: the service failed, or what came back is no cutout of that photo.
    """
    sample = files("deploy.local").joinpath("sample.jpg")
    with as_file(sample) as photo, ServiceClient(api_url) as client:
        try:
            cutout = client.cut_out(photo, {"cache": "false"})
        except ClientError as error:
            raise SelfCheckError(f"The sample photo was not cut out: {error}") from error
        with Image.open(photo) as image:
            size = image.size
    check_cutout(cutout, size)
    target.write_bytes(cutout)


def check_cutout(png: bytes, size: tuple[int, int]) -> None:
    """Insist on a PNG of this width and height, in part transparent and in part opaque.

    Raises:
        SelfCheckError: it is something else.
    """
    try:
        with Image.open(io.BytesIO(png)) as image:
            if image.format != "PNG" or image.mode != "RGBA" or image.size != size:
                what = f"{image.format} {image.mode} of {image.width}×{image.height}"
                raise SelfCheckError(f"The sample came back as {what}, not as an RGBA PNG {size}.")
            low, high = cast("tuple[int, int]", image.getchannel("A").getextrema())
    except UnidentifiedImageError as error:
        raise SelfCheckError("What came back for the sample is no picture.") from error
    if low > _NEARLY_CLEAR or high < _NEARLY_SOLID:
        raise SelfCheckError(f"The sample's alpha runs from {low} to {high}: nothing was cut out.")


#: For scripts: the addresses, written when everything is ready and removed at the end.
RUN_FILE: Final = "run.json"

_PORTS_FILE: Final = "ports.json"


def run_up(options: UpOptions, screen: Screen) -> int:
    """Run until Ctrl-C or SIGTERM; the exit status."""
    try:
        given = _settings(options, screen)
        _require_model(given)
        with (
            open_data_folder(options.data) as folder,
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
    await asyncio.to_thread(run_self_check, stack.api_url, folder.sample_cutout)
    folder.remember(RUN_FILE, {"api_url": stack.api_url, "flower_url": stack.flower_url})
    screen.ready(stack.api_url, stack.flower_url, folder.sample_cutout)
