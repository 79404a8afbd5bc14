"""`rmbg mcp` by the MCP library's own client, and the calls of docs/llms.txt, on the service."""

import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from PIL import Image

from deploy.local.service import script
from deploy.mcp_server import RETRIES, Folders, build_server
from rmbg_client import AsyncClient, NoCutoutError
from tests.support.paths import ROOT
from tests.support.programs import run_program
from tests.support.service import RunningApi, RunningService
from tests.support.serving import answer, serving

TOOLS = {"cut_out", "get_task", "list_models"}
#: A task that nobody has.
NOBODY = "rm-20261122-aaaaaaaaaaaaaaaaaaaa"


@asynccontextmanager
async def _connected(url: str, folder: Path) -> AsyncIterator[Client]:
    """A client of a server in this process: the service is real, the pipe is not."""
    async with (
        AsyncClient(url, retries=RETRIES) as api,
        Client(build_server(api, Folders.of([folder]))) as client,
    ):
        yield client


async def _call(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    assert isinstance(answer.structured_content, dict)
    return answer.structured_content


async def _refusal(client: Client, tool: str, **arguments: object) -> str:
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error, answer.structured_content
    return str(getattr(answer.content[0], "text", ""))


@pytest.fixture
def folder(tmp_path: Path, coffee: Path) -> Path:
    """An agent's folder, beside a file that is none of its business."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "kofe фото.jpg").write_bytes(coffee.read_bytes())
    (folder / "leads out").symlink_to(tmp_path)
    (folder / "linked.png").symlink_to(tmp_path / "secret.png")
    (folder / "note.jpg").write_text("no picture")
    return folder


async def test_an_agent_cuts_a_file_out_over_stdio(service: RunningService, folder: Path) -> None:
    told: list[tuple[float, str | None]] = []

    async def note(progress: float, _total: float | None, message: str | None) -> None:
        told.append((progress, message))

    parameters = StdioServerParameters(
        command=script("rmbg"),
        args=["mcp", "--url", service.url],
        cwd=folder,
        env=dict(os.environ),
    )
    async with Client(parameters) as client:
        assert {each.name for each in (await client.list_tools()).tools} == TOOLS
        models = (await _call(client, "list_models"))["result"]
        assert [each["name"] for each in models if each["default"]] == ["u2netp"]
        cutout = await client.call_tool(
            "cut_out",
            {"source": "kofe фото.jpg", "output": "coffee.webp", "options": {"max_side": 64}},
            progress_callback=note,
        )
        report = cutout.structured_content
        assert report is not None, cutout.content
        with Image.open(folder / "coffee.webp") as picture:
            assert (picture.format, picture.mode) == ("WEBP", "RGBA")
            assert picture.size == (report["width"], report["height"])
        asked = await _call(client, "get_task", task_id=report["task_id"], output="again.webp")
        assert asked["status"] == "succeeded"
        assert (folder / "again.webp").read_bytes() == (folder / "coffee.webp").read_bytes()
    numbers, messages = zip(*told, strict=True)
    assert list(numbers) == sorted(set(numbers))
    # A quick worker may have ended it before the first of them.
    assert messages[-1] == "succeeded"


OUTSIDE = "outside of the folders"


@pytest.mark.parametrize(
    ("tool", "changes", "words"),
    [
        ("cut_out", {"source": "../secret.png"}, OUTSIDE),
        ("cut_out", {"source": "linked.png"}, OUTSIDE),
        ("cut_out", {"output": "leads out/a.png"}, OUTSIDE),
        ("cut_out", {"output": "linked.png", "overwrite": True}, OUTSIDE),
        ("get_task", {"task_id": NOBODY, "output": "../a.png"}, OUTSIDE),
        ("cut_out", {"source": "a\0b"}, "is no path"),
        ("cut_out", {"source": "none.jpg"}, "No such file"),
        ("cut_out", {"source": "pipe.jpg"}, "is no file"),
        ("cut_out", {"source": "large.jpg"}, "the service takes"),
        ("cut_out", {"output": ".bashrc"}, "no name for a cutout"),
        ("cut_out", {"output": "new/a.png"}, "does not exist"),
        ("cut_out", {"output": "note.jpg"}, "set overwrite"),
        ("cut_out", {"options": {"output_format": "jpg"}}, "does not end as its format"),
        ("cut_out", {"options": {"webhook_url": "http://x.y/"}}, "no option webhook_url"),
        ("cut_out", {"options": {"preset": "none"}}, "no preset"),
        ("cut_out", {"source": 7}, "source: give a text. A picture: its path"),
        ("cut_out", {"wait_seconds": 99}, "wait_seconds: give 50 or less."),
        ("cut_out", {"overwrite": "perhaps"}, "overwrite: give true or false. Whether an existing"),
        ("cut_out", {"crop": True}, "takes no crop, but source, output, options, overwrite"),
        ("get_task", {}, "task_id is missing. Id of a task"),
        ("get_task", {"task_id": "7"}, "task_id: give an id as cut_out has returned it."),
        # From here on the service judges, and its words are told.
        ("cut_out", {}, "The file is no picture"),
        ("cut_out", {"source": "http://10.1.2.3/a.jpg"}, "must not be called"),
        ("get_task", {"task_id": NOBODY}, "task"),
    ],
)
async def test_what_is_refused_says_why_and_writes_nothing(
    service: RunningService, folder: Path, tool: str, changes: dict[str, object], words: str
) -> None:
    limit = service.client.request("GET", "/api/v1/info")["limits"]["max_image_bytes"]
    with (folder / "large.jpg").open("wb") as large:
        large.truncate(limit + 1)
    os.mkfifo(folder / "pipe.jpg")
    before = sorted(folder.parent.rglob("*"))
    usual = {"source": "note.jpg", "output": "a.png"} if tool == "cut_out" else {}

    async with _connected(service.url, folder) as client:
        told = await _refusal(client, tool, **usual | changes)
    assert words.lower() in told.lower()
    assert sorted(folder.parent.rglob("*")) == before


async def test_a_task_that_takes_long_is_asked_for_again_and_a_canceled_call_cancels_it(
    lone_api: RunningApi, folder: Path
) -> None:
    picture = {"source": "kofe фото.jpg", "output": "a.png"}
    async with _connected(lone_api.url, folder) as client, AsyncClient(lone_api.url) as api:
        report = await _call(client, "cut_out", **picture, wait_seconds=0)
        assert (report["status"], report["output"]) == ("queued", None)
        asked = await _call(client, "get_task", task_id=report["task_id"], output="a.png")
        assert (asked["status"], asked["output"]) == ("queued", None)

        told: list[str | None] = []

        async def cancel(_progress: float, _total: float | None, message: str | None) -> None:
            told.append(message)
            scope.cancel()

        other = {**picture, "options": {"crop": True}}
        with anyio.CancelScope() as scope:
            await client.call_tool("cut_out", other, progress_callback=cancel)
        assert told == ["queued"]
        newest = (await api.tasks(limit=1)).tasks[0].task_id
        assert newest != report["task_id"]
        with pytest.raises(NoCutoutError, match="canceled"):
            await api.wait(newest)
        assert "canceled" in await _refusal(client, "get_task", task_id=newest)
    assert not (folder / "a.png").exists()


LLMS = (ROOT / "docs" / "llms.txt").read_text()


def test_the_calls_of_llms_txt_work_as_they_are_written(
    service: RunningService, coffee: Path, tmp_path: Path
) -> None:
    calls = re.findall(r"^ +(curl .*)$", LLMS, re.MULTILINE)
    assert len(calls) == 5
    (tmp_path / "photo.jpg").write_bytes(coffee.read_bytes())
    variables = {"PATH": os.environ["PATH"], "TASK_ID": service.client.submit(coffee, {})}
    with serving(answer(200, coffee.read_bytes(), Content_Type="image/jpeg")) as port:
        for call in calls:
            here = call.replace("http://127.0.0.1:8000", service.url)
            here = here.replace("https://shop.example", f"http://127.0.0.1:{port}")
            done = run_program("bash", "-euc", here, cwd=tmp_path, env=variables)
            assert done.returncode == 0, done.stderr
            assert "-o cutout.png" in call or json.loads(done.stdout)["code"] == 0, done.stdout
    assert (tmp_path / "cutout.png").read_bytes().startswith(b"\x89PNG")


def test_the_pages_name_what_is_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", LLMS)
    assert len(links) >= 8
    assert [each for each in links if not (ROOT / "docs" / each.partition("#")[0]).exists()] == []
    page = (ROOT / "docs" / "agents.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == TOOLS
    for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL):
        (entry,) = json.loads(block)["mcpServers"].values()
        assert entry["args"][0] == "mcp"
