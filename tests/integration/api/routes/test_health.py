"""Readiness: what is missing, by name."""

from flask.testing import FlaskClient

from tests.support.submissions import refusal


def test_readiness_names_what_is_missing(client: FlaskClient) -> None:
    answer = client.get("/healthz/ready")
    assert refusal(answer) == (503, "not_ready")
    assert "worker" in answer.get_json()["message"]
