"""What people are told where a service does not answer as one."""

import json

import pytest

from deploy.client import ClientError, ServiceClient
from tests.support.serving import Handle, answer, serving


@pytest.mark.parametrize(
    ("handle", "words"),
    [
        (answer(200, b"<html>"), r"is not an rmbg service \(HTTP 200\)"),
        (answer(422, json.dumps({"code": 40000, "message": "no picture"}).encode()), "no picture"),
        (lambda _: None, r"\(ProtocolError\); is the service running\?"),
    ],
)
def test_what_does_not_answer_as_a_service_is_told(handle: Handle, words: str) -> None:
    with serving(handle) as port, pytest.raises(ClientError, match=words):
        ServiceClient(f"http://127.0.0.1:{port}").request("GET", "/api/v1/info")
