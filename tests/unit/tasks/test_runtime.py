import pickle
import socket

import pytest

from tasks.app import create_celery
from tasks.runtime import Runtime, runtime_of
from tasks.settings import Settings


@pytest.fixture
def away() -> Settings:
    """Nobody listens at these addresses."""
    return Settings.load(redis_url="redis://127.0.0.1:1/0", s3_endpoint="http://127.0.0.1:1")


def test_a_runtime_connects_to_nothing(away: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it connects"))
    with Runtime(away):
        pass


def test_an_application_has_one_runtime_which_a_spawned_process_lacks(away: Settings) -> None:
    with create_celery(away) as app:
        with Runtime(away, celery_app=app):
            pass
        assert app.pool is not None, "who is given one does not close it"
        assert runtime_of(app) is runtime_of(app)
        assert runtime_of(app).celery_app is app
        copy = pickle.loads(pickle.dumps(app))  # noqa: S301 - made in the line itself
        assert "rmbg_runtime" not in vars(copy)
