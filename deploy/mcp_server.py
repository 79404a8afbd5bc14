"""The MCP server of `rmbg mcp`: tools by which an agent cuts pictures out with a running service.

The service judges options and pictures, and its sentences are the errors of the tools. This server
judges paths alone: an agent reads and writes only below the folders that its user has named.
"""

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import anyio
import anyio.to_thread
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field, ValidationError, WithJsonSchema

from api.parameters import describe_parameters
from inference.presets import PRESETS, Preset
from inference.version import __version__
from rmbg_client import (
    AsyncClient,
    Bytes,
    NoCutoutError,
    RetryPolicy,
    RmbgError,
    Task,
    Url,
    WaitTimeoutError,
)

if TYPE_CHECKING:
    from rmbg_client.parameters import Parameters

#: Parameters that agents do not get. Webhooks would tell an address that a text has put into an
#: agent's mouth where the pictures are; the others serve programs.
_WITHHELD: Final = frozenset({"webhook_url", "webhook_events", "metadata", "expires_in", "cache"})
#: The longest that a tool waits for a task. Clients give a call up after a minute.
_MAX_WAIT_SECONDS: Final = 50
#: The longest that one request waits, so that progress is told in between.
_STEP_SECONDS: Final = 3
#: The longest that the task of a call is canceled for, when the agent has canceled the call.
_CANCEL_SECONDS: Final = 5
#: The largest cutout that is fetched: it is in memory once.
_MAX_RESULT_BYTES: Final = 512 * 2**20
#: An agent waits for an answer: a service that is away is told of within seconds.
RETRIES: Final = RetryPolicy(attempts=4)
#: The format of a file by its suffix: what a cutout is written as, and all that is ever written.
_FORMATS: Final[Mapping[str, str]] = MappingProxyType(
    {".png": "png", ".webp": "webp", ".avif": "avif", ".jpg": "jpg", ".jpeg": "jpg"}
)
_INSTRUCTIONS: Final = (
    "Removes the backgrounds of pictures with a self-hosted service. Give cut_out a file or an "
    "address, and it writes the cutout to a file. If that takes long, it answers with the task's "
    "id: ask get_task for it, with the output to write, until its status is succeeded."
)


def _describe_options() -> dict[str, Any]:
    """Return the JSON schema of the options, from the API's own table of parameters."""
    properties: dict[str, Any] = {
        "preset": {
            "type": "string",
            "enum": [each.value for each in Preset],
            "description": "Options for a purpose; those given beside it go before them.",
        }
    }
    for each in describe_parameters():
        if each["name"] not in _WITHHELD:
            rules = {
                "default": each["default"],
                "minimum": each["minimum"],
                "maximum": each["maximum"],
                "enum": each["choices"] or None,
            }
            properties[each["name"]] = {
                "type": each["type"],
                "description": each["description"],
                **{name: value for name, value in rules.items() if value is not None},
            }
    return {"type": "object", "properties": properties, "additionalProperties": False}


_OPTIONS: Final = _describe_options()

Options = Annotated[dict[str, Any], WithJsonSchema(_OPTIONS)]
Source = Annotated[str, Field(description="A picture: its path, or an http(s) address.")]
Output = Annotated[
    str | None,
    Field(
        description="Path of the cutout; its suffix names the format: .png, .webp, .avif or .jpg "
        "(jpg needs a background)."
    ),
]
Overwrite = Annotated[bool, Field(description="Whether an existing output may be replaced.")]
Wait = Annotated[
    int,
    Field(ge=0, le=_MAX_WAIT_SECONDS, description="Seconds to wait for the task's end."),
]
TaskId = Annotated[str, Field(pattern=r"^rm-\d{8}-[a-z0-9]{20}$", description="Id of a task.")]


class TaskReport(BaseModel):
    """What became of a task."""

    task_id: str
    status: str = Field(description="queued, processing or succeeded.")
    output: str | None = Field(description="Path of the cutout; null where none was written.")
    format: str | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = Field(default=None, description="Size of the cutout.")
    model: str | None = None


class ModelReport(BaseModel):
    """A model that the service serves."""

    name: str
    title: str
    licence: str
    commercial_use: bool = Field(description="false: only with its authors' permission.")
    default: bool


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders that agents may use; a relative path starts from the first of them.

    Symbolic links are followed before a path is judged, so none leads out.
    """

    allowed: tuple[Path, ...]

    @classmethod
    def of(cls, given: Sequence[Path]) -> "Folders":
        """Allow folders, which have to exist."""
        return cls(tuple(each.resolve(strict=True) for each in given))

    def _resolve(self, path: str) -> Path:
        try:
            resolved = self.allowed[0].joinpath(path).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise ToolError(f"{path!r} is no path: {error}") from error
        if not any(resolved.is_relative_to(folder) for folder in self.allowed):
            allowed = ", ".join(map(str, self.allowed))
            raise ToolError(
                f"{path} is outside of the folders that this server may use: {allowed}. Name a "
                "path below one of them, or start rmbg mcp with another --folder."
            )
        return resolved

    def read(self, path: str, limit: int) -> tuple[str, bytes]:
        """Return the name and content of a regular file of up to `limit` bytes."""
        resolved = self._resolve(path)
        try:
            # What has become a link or a pipe since is neither followed nor waited for.
            handle = os.open(resolved, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as file:
                facts = os.fstat(file.fileno())
                if not stat.S_ISREG(facts.st_mode):
                    raise ToolError(f"{path} is no file. Name a picture.")
                content = file.read(limit + 1)
        except OSError as error:
            raise ToolError(f"{path} cannot be read: {error.strerror}.") from error
        if len(content) > limit:
            size = max(facts.st_size, len(content))
            raise ToolError(
                f"{path} has {size} bytes; the service takes {limit}. Send a smaller picture, or "
                "have the operator raise RMBG_MAX_IMAGE_MB."
            )
        return resolved.name, content

    def plan_output(self, path: str, *, overwrite: bool) -> Path:
        """Return where a cutout may be written; its format is that of the path's suffix."""
        resolved = self._resolve(path)
        if resolved.suffix.lower() not in _FORMATS:
            raise ToolError(
                f"{path} is no name for a cutout. Give one that ends in {', '.join(_FORMATS)}."
            )
        if not resolved.parent.is_dir():
            raise ToolError(f"The folder {resolved.parent} does not exist. Create it first.")
        if resolved.exists() and not (overwrite and resolved.is_file()):
            raise ToolError(f"{path} exists. Choose another output, or set overwrite.")
        return resolved


def _write(target: Path, content: bytes, *, overwrite: bool) -> None:
    """Write a file so that it appears under its name complete, or not at all."""
    try:
        if not overwrite:
            # Takes the name, and fails where another has taken it meanwhile.
            target.touch(0o644, exist_ok=False)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".rmbg-")
        draft = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            # Temporary files are their owner's alone; a cutout is an ordinary file.
            draft.chmod(0o644)
            draft.replace(target)
        except BaseException:
            draft.unlink()
            if not overwrite:
                target.unlink(missing_ok=True)
            raise
    except FileExistsError as error:
        raise ToolError(f"{target} exists. Choose another output, or set overwrite.") from error
    except OSError as error:
        raise ToolError(f"{target} cannot be written: {error.strerror}.") from error


@contextmanager
def _telling() -> Iterator[None]:
    """Make the client's and the service's sentences the tool's errors."""
    try:
        yield
    except NoCutoutError as error:
        raise ToolError(f"{error} (task {error.task.task_id})") from error
    except RmbgError as error:
        raise ToolError(str(error)) from error


@dataclass(frozen=True, slots=True)
class _Progress:
    """Tells the agent how a task goes on, in rising numbers, as MCP wants them."""

    context: Context[Any, Any]
    told: list[str]

    async def tell(self, message: str) -> None:
        self.told.append(message)
        await self.context.report_progress(len(self.told), message=message)


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools: what they do with one service and the allowed folders."""

    client: AsyncClient
    folders: Folders

    async def cut_out(
        self,
        context: Context[Any, Any],
        source: Source,
        output: Output,
        options: Options | None = None,
        *,
        overwrite: Overwrite = False,
        wait_seconds: Wait = _MAX_WAIT_SECONDS,
    ) -> TaskReport:
        """Remove a picture's background, and write the cutout to a file."""
        progress = _Progress(context, [])
        parameters = _read_options(options or {})
        target = None if output is None else self.folders.plan_output(output, overwrite=overwrite)
        if target is not None:
            wanted = _FORMATS[target.suffix.lower()]
            if parameters.setdefault("output_format", wanted) != wanted:
                raise ToolError(
                    f"{output} does not end as its format, {parameters['output_format']}. Change "
                    "the output's suffix or output_format."
                )
        with _telling():
            task_id = await self._submit(source, parameters)
            try:
                task = await self.client.task(task_id)
                return await self._follow(task, target, progress, wait_seconds, overwrite=overwrite)
            except anyio.get_cancelled_exc_class():
                with anyio.move_on_after(_CANCEL_SECONDS, shield=True):
                    await self.client.cancel(task_id)
                raise

    async def get_task(
        self,
        context: Context[Any, Any],
        task_id: TaskId,
        output: Output = None,
        *,
        overwrite: Overwrite = False,
        wait_seconds: Wait = 0,
    ) -> TaskReport:
        """Ask for a task; if it has succeeded and an output is given, write its cutout there."""
        target = None if output is None else self.folders.plan_output(output, overwrite=overwrite)
        with _telling():
            task = await self.client.task(task_id)
            if target is not None and task.format not in {None, _FORMATS[target.suffix.lower()]}:
                raise ToolError(f"The cutout is a {task.format}. Give an output that ends so.")
            progress = _Progress(context, [])
            return await self._follow(task, target, progress, wait_seconds, overwrite=overwrite)

    async def list_models(self) -> list[ModelReport]:
        """List the models that the service serves, with their licences."""
        with _telling():
            info = await self.client.info()
        return [
            ModelReport(**{name: each[name] for name in ModelReport.model_fields})
            for each in info["models"]
        ]

    async def _submit(self, source: str, given: dict[str, Any]) -> str:
        parameters = cast("Parameters", given)
        picture: Url | Bytes = Url(source)
        if not source.lower().startswith(("http://", "https://")):
            limit = int((await self.client.info())["limits"]["max_image_bytes"])
            name, content = await anyio.to_thread.run_sync(self.folders.read, source, limit)
            picture = Bytes(content, name)
        return (await self.client.submit(picture, **parameters)).task_id

    async def _follow(
        self,
        task: Task,
        target: Path | None,
        progress: _Progress,
        seconds: int,
        *,
        overwrite: bool,
    ) -> TaskReport:
        """Wait for a task's end, and write its cutout."""
        await progress.tell(task.status)
        while not task.final and seconds > 0:
            step = min(seconds, _STEP_SECONDS)
            try:
                task = await self.client.wait(task.task_id, limit=step)
            except WaitTimeoutError:
                task = await self.client.task(task.task_id)
            seconds -= step
            await progress.tell(task.status)
        if task.final and task.status != "succeeded":
            raise NoCutoutError(task)
        written = target if task.final else None
        if written is not None:
            await self._save(task, written, overwrite=overwrite)
        return TaskReport(
            task_id=task.task_id,
            status=task.status,
            output=None if written is None else str(written),
            format=task.format,
            width=task.width,
            height=task.height,
            bytes=task.size,
            model=task.model,
        )

    async def _save(self, task: Task, target: Path, *, overwrite: bool) -> None:
        if (task.size or 0) > _MAX_RESULT_BYTES:
            raise ToolError(
                f"The cutout has {task.size} bytes; the limit is {_MAX_RESULT_BYTES}. Ask for "
                "a smaller one with max_side or another format."
            )
        content = await self.client.result(task.task_id)
        await anyio.to_thread.run_sync(lambda: _write(target, content, overwrite=overwrite))


def _read_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as parameters, a preset's beneath them; the service judges values."""
    unknown = sorted(given.keys() - _OPTIONS["properties"].keys())
    if unknown:
        known = ", ".join(_OPTIONS["properties"])
        raise ToolError(f"There is no option {', '.join(unknown)}. Choose from {known}.")
    parameters = {name: value for name, value in given.items() if value is not None}
    preset = parameters.pop("preset", None)
    if preset is not None and preset not in {each.value for each in Preset}:
        raise ToolError(f"There is no preset {preset}. Choose from {', '.join(Preset)}.")
    return {**(PRESETS[Preset(preset)] if preset else {}), **parameters}


#: What a value has to be, by the kind of pydantic's error; all other kinds are told as they are.
_WANTED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "string_type": "a text",
        "bool_parsing": "true or false",
        "bool_type": "true or false",
        "int_parsing": "a whole number",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "dict_type": "an object",
        "string_pattern_mismatch": "an id as cut_out has returned it",
        "greater_than_equal": "{ge} or more",
        "less_than_equal": "{le} or less",
    }
)


class _Server(MCPServer[Any]):
    """Says what is wrong with a call's arguments, and what they have to be."""

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any],
        context: Context[Any, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - as the library's
        """Call a tool.

        Raises:
            ToolError: there is no such tool or argument, a value is none that it takes, or the tool
                says so.
        """
        known = {each.name: each.input_schema for each in await self.list_tools()}
        properties = known.get(name, {}).get("properties", {})
        unknown = sorted(arguments.keys() - properties.keys())
        if unknown and name in known:
            options = ", ".join(set(unknown) & _OPTIONS["properties"].keys())
            hint = f" Give {options} in options." if options and "options" in properties else ""
            raise ToolError(
                f"{name} takes no {', '.join(unknown)}, but {', '.join(properties)}.{hint}"
            )
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                raise ToolError(_mistakes(error.__cause__, properties)) from error
            raise


def _mistakes(error: ValidationError, properties: Mapping[str, Any]) -> str:
    """Return a sentence for each argument that is missing or wrong."""
    told = []
    for each in error.errors(include_url=False):
        name = str(each["loc"][0])
        about = properties.get(name, {}).get("description", "")
        if each["type"] == "missing":
            told.append(f"{name} is missing. {about}")
            continue
        wanted = _WANTED.get(each["type"], each["msg"]).format_map(each.get("ctx", {}))
        told.append(f"{name}: give {wanted}. {about}")
    return " ".join(each.strip() for each in told)


def build_server(client: AsyncClient, folders: Folders) -> MCPServer[Any]:
    """Build the server with its tools; standard output is the protocol's, so it logs to stderr."""
    server = _Server("rmbg", instructions=_INSTRUCTIONS, version=__version__, log_level="WARNING")
    tools = Tools(client, folders)
    writes = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=True)
    server.add_tool(tools.cut_out, title="Remove a background", annotations=writes)
    server.add_tool(tools.get_task, title="Ask for a task", annotations=writes)
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    server.add_tool(tools.list_models, title="List models", annotations=reads)
    return server
