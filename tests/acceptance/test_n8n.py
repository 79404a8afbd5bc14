"""The n8n workflows of docs/examples/n8n, played against the running service."""

import base64
import json
import shutil
from pathlib import Path

import pytest

from tasks.api_keys import new_webhook_secret
from tests.support.paths import ROOT
from tests.support.programs import run_program
from tests.support.service import RunningService
from tests.support.serving import answer, serving

WORKFLOWS = ROOT / "docs" / "examples" / "n8n"
PLAYER = ROOT / "tests" / "clients" / "n8n" / "play.js"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no Node here")


@pytest.mark.parametrize(
    ("name", "changes", "picture", "refusal"),
    [
        ("webhook", {}, "coffee", ""),
        ("webhook", {"webhook_secret": new_webhook_secret()}, "coffee", "no valid signature"),
        ("webhook", {}, "garbled", "damaged"),
        ("polling", {}, "coffee", ""),
        ("polling", {}, "garbled", "damaged"),
    ],
    ids=["webhook", "forged", "webhook, damaged", "polling", "polling, damaged"],
)
def test_a_workflow_ends_with_the_cutout_or_with_the_reason(  # noqa: PLR0917 - parametrized
    service: RunningService,
    request: pytest.FixtureRequest,
    name: str,
    changes: dict[str, str],
    picture: str,
    refusal: str,
) -> None:
    workflow = WORKFLOWS / f"{name}.json"
    content = Path(request.getfixturevalue(picture)).read_bytes()
    with serving(answer(200, content, Content_Type="image/jpeg")) as port:
        settings = {
            "service": service.url,
            "image_url": f"http://127.0.0.1:{port}/photo.jpg",
            "webhook_secret": service.env["RMBG_WEBHOOK_SECRET"],
            **changes,
        }
        done = run_program("node", PLAYER, workflow, json.dumps(settings))
    if refusal:
        assert done.returncode == 1, done.stdout
        assert refusal in done.stderr
        return
    assert done.returncode == 0, done.stderr
    played = json.loads(done.stdout)
    assert base64.b64decode(played["file"]).startswith(b"\x89PNG")
    others = {each["name"] for each in json.loads(workflow.read_text())["nodes"]}
    assert others - set(played["path"]) == {"Fail"}


@pytest.mark.parametrize("name", ["webhook", "polling"])
def test_a_workflow_holds_no_secret_and_names_each_node_once(name: str) -> None:
    nodes = json.loads((WORKFLOWS / f"{name}.json").read_text())["nodes"]
    for field in ("name", "id"):
        assert len({each[field] for each in nodes}) == len(nodes)
    assert not [each for each in nodes if "credentials" in each]
