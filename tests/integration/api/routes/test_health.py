"""Readiness: what is missing, by name."""

from flask.testing import FlaskClient

from api.services import Services


def test_readiness_names_what_is_missing(client: FlaskClient, services: Services) -> None:
    assert not services.runtime.job_store.ready_workers()
    answer = client.get("/healthz/ready")
    body = answer.get_json()
    assert (answer.status_code, body["error"]["type"]) == (503, "not_ready")
    assert "worker" in body["message"]
