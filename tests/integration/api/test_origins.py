"""Foreign web pages, and names that lead here by DNS rebinding, while no key is asked for."""

import pytest

from api.auth import LOOPBACK_ONLY
from tests.support.api import Api
from tests.support.submissions import PATH, PICTURE, form

SHOP = "https://shop.example"
FOREIGN = {"Origin": "https://evil.example"}
#: A form of a page of another origin, which no preflight request goes before.
FORM = {**FOREIGN, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
LISTED = "/api/v1/tasks"


def _local(api: Api, **settings: object) -> Api:
    local = api.with_settings(**{"auth": "auto", **settings})
    local.application.config[LOOPBACK_ONLY] = True
    return local


@pytest.mark.parametrize("auth", ["auto", "off"])
def test_a_service_without_keys_answers_to_its_own_names(api: Api, auth: str) -> None:
    own = ["127.0.0.1:8000", "LOCALHOST", "[::1]:8000", "rmbg.intra:8000", "pictures.example"]
    foreign = ["evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"]
    unreadable = ["[::1", "a@127.0.0.1:b", "x." * 2500]
    local = _local(
        api,
        auth=auth,
        trusted_hosts="other, RMBG.intra",
        public_url="https://pictures.example/rmbg",
    )
    for path in (LISTED, "/v1.0/account"):
        for host in own:
            assert local.get(path, headers={"Host": host}).status_code == 200, host
        for host in foreign + unreadable:
            assert local.get(path, headers={"Host": host}).status_code == 421, host
    assert local.error("GET", LISTED, headers={"Host": "10.0.0.1"}) == (421, "host_not_trusted")
    # At a public address any address is a name of the service.
    public = api.with_settings(auth="off")
    assert public.get(LISTED, headers={"Host": "10.0.0.1:8000"}).status_code == 200
    assert public.get(LISTED, headers={"Host": "evil.example"}).status_code == 421


def test_without_keys_pages_of_other_origins_are_refused(api: Api) -> None:
    local = _local(api, cors_origins=SHOP)
    own: list[dict[str, str]] = [
        {},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-origin", "Referer": "http://localhost/docs/"},
        {"Origin": SHOP, "Sec-Fetch-Site": "cross-site"},
        {"Referer": f"{SHOP}/page", "Sec-Fetch-Site": "cross-site"},
    ]
    foreign = [
        FOREIGN,
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://localhost:3000"},
        {"Origin": f"{SHOP}.evil.example"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Referer": "http://localhost/"},
        {"Referer": "https://evil.example/page"},
    ]
    for path in (LISTED, "/v1.0/account"):
        for headers in own:
            assert local.get(path, headers=headers).status_code == 200, headers
        for headers in foreign:
            assert local.get(path, headers=headers).status_code == 403, headers


def test_a_form_of_a_foreign_page_submits_nothing(api: Api) -> None:
    local = _local(api)
    for path, name in ((PATH, "image"), ("/v1.0/removebg", "image_file")):
        answer = local.post(path, headers=FORM, **form((name, ("a.png", PICTURE))))
        assert answer.status_code == 403
        assert "RMBG_CORS_ORIGINS" in answer.text
    assert local.queued() == []
    # All origins can be allowed, and with a key any host and page may call.
    assert _local(api, cors_origins="*").get(LISTED, headers=FORM).status_code == 200
    shop = api.with_settings(auth="on").tenant("shop")
    assert shop.get(LISTED, headers={**FORM, "Host": "any.example"}).status_code == 200
