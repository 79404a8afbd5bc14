"""Readiness: what is missing, by name."""

from tests.support.api import Api
from tests.support.submissions import refusal


def test_readiness_names_what_is_missing(api: Api) -> None:
    assert refusal(api.get("/healthz/ready"), "worker") == (503, "not_ready")
