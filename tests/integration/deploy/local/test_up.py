"""The self-check of `rmbg up`, with an API key where one is asked for."""

from pathlib import Path

import pytest

from api.settings import ApiSettings
from deploy.local import up
from deploy.local.service import SelfCheckError
from tasks.runtime import Runtime
from tests.support.stacks import planned


@pytest.mark.parametrize(
    ("auth", "keys", "expected"),
    [
        ({}, 1, ("off", False)),
        ({"auth": "off"}, 1, ("off", False)),
        ({"auth": "auto"}, 0, ("auto", False)),
        ({"auth": "auto"}, 1, ("auto", True)),
        ({"auth": "on"}, 0, ("on", True)),
    ],
)
def test_keys_are_asked_for_as_set_and_the_self_check_has_one_for_its_own_time(
    auth: dict[str, str],
    keys: int,
    *,
    expected: tuple[str, bool],
    server_settings: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server_settings.pop("auth", None)
    given = ApiSettings.load(**server_settings, **auth)
    runtime = Runtime(given)
    runtime.object_store.ensure_bucket()
    for number in range(keys):
        runtime.api_keys.add(f"shop-{number}")
    stack = planned(given, tmp_path)
    key_was_valid = []

    def check(_url: str, _target: Path, api_key: str | None = None) -> None:
        key_was_valid.append(bool(api_key and runtime.api_keys.find(api_key)))
        raise SelfCheckError("nothing was cut out")

    monkeypatch.setattr(up, "run_self_check", check)
    with pytest.raises(SelfCheckError):
        up.check_stack(stack, tmp_path / "cutout.png")
    assert {(each.env["RMBG_AUTH"], *key_was_valid) for each in stack.services} == {expected}
    assert len(runtime.api_keys.list()) == keys, "the self-check's key is still valid"


@pytest.mark.parametrize("given", [None, "https://flower.example/"])
def test_the_operators_page_links_to_this_flower_or_the_users(
    server_settings: dict[str, object], tmp_path: Path, given: str | None
) -> None:
    settings = ApiSettings.load(**server_settings, **({"flower_url": given} if given else {}))
    stack = planned(settings, tmp_path, flower_port=0)
    (api,) = [each for each in stack.services if each.name == "api"]
    assert api.env["RMBG_FLOWER_URL"] == (given or stack.flower_url)
