"""Readiness: what is missing, by name."""

from tests.support.api import Api
from tests.support.submissions import refusal


def test_readiness_names_what_is_missing(api: Api) -> None:
    answer = api.get("/healthz/ready")
    assert refusal(answer) == (503, "not_ready")
    assert "worker" in answer.get_json()["message"]
