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
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost:1", 200),
        ("LOCALHOST", 200),
        ("[::1]:8000", 200),
        ("rmbg.intra:8000", 200),
        ("pictures.example", 200),
        ("evil.example", 421),
        ("evil.example:8000", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("10.0.0.1", 421),
        ("[::1", 421),
        ("a@127.0.0.1:b", 421),
        ("x." * 2500, 421),
    ],
)
def test_a_service_without_keys_answers_to_its_own_names(
    api: Api, auth: str, host: str, status: int
) -> None:
    local = _local(
        api,
        auth=auth,
        trusted_hosts="other, RMBG.intra",
        public_url="https://pictures.example/rmbg",
    )
    for path in (LISTED, "/v1.0/account"):
        assert local.get(path, headers={"Host": host}).status_code == status
    if status == 421:
        assert local.error("GET", LISTED, headers={"Host": host}) == (421, "host_not_trusted")


def test_at_a_public_address_any_address_is_a_name_of_the_service(api: Api) -> None:
    public = api.with_settings(auth="off")
    assert public.get(LISTED, headers={"Host": "10.0.0.1:8000"}).status_code == 200
    assert public.get(LISTED, headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Referer": "http://localhost/docs/"}, 200),
        ({"Origin": SHOP, "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Referer": f"{SHOP}/page", "Sec-Fetch-Site": "cross-site"}, 200),
        (FOREIGN, 403),
        (FORM, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": f"{SHOP}.evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Referer": "http://localhost/"}, 403),
        ({"Referer": "https://evil.example/page"}, 403),
    ],
    ids=str,
)
def test_without_keys_pages_of_other_origins_are_refused(
    api: Api, headers: dict[str, str], status: int
) -> None:
    local = _local(api, cors_origins=SHOP)
    assert local.get(LISTED, headers=headers).status_code == status
    assert local.get("/v1.0/account", headers=headers).status_code == status


def test_a_form_of_a_foreign_page_submits_nothing(api: Api) -> None:
    local = _local(api)
    for path, name in ((PATH, "image"), ("/v1.0/removebg", "image_file")):
        answer = local.post(path, headers=FORM, **form((name, ("a.png", PICTURE))))
        assert answer.status_code == 403
        assert "RMBG_CORS_ORIGINS" in answer.text
    assert local.queued() == []


def test_with_a_key_any_host_and_page_may_call(api: Api) -> None:
    shop = api.with_settings(auth="on").tenant("shop")
    assert shop.get(LISTED, headers={**FORM, "Host": "any.example"}).status_code == 200


def test_all_origins_can_be_allowed(api: Api) -> None:
    assert _local(api, cors_origins="*").get(LISTED, headers=FORM).status_code == 200
