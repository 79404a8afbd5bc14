"""The API's own settings: what is refused at start."""

from pathlib import Path

import pytest

from api import gunicorn_conf
from api.settings import ApiSettings
from tasks.errors import SettingsError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cors_origins", "shop.example"),
        ("cors_origins", "https://a.example,b.example"),
        ("cors_origins", "https://shop.example/studio"),
        ("trusted_hosts", "rmbg.intra,rmbg.intra:8000"),
        ("trusted_hosts", "https://rmbg.intra"),
    ],
)
def test_what_no_browser_would_send_is_a_wrong_setting(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"RMBG_{name.upper()}"):
        ApiSettings.load(**{name: value})


def test_origins_and_names_are_those_that_browsers_send() -> None:
    origins = "https://shop.example/, http://[::1]:3000,http://10.0.0.1:80,*"
    settings = ApiSettings.load(cors_origins=origins, trusted_hosts="API, rmbg.intra,fd00::1")
    assert len(settings.cors_allowed) == 4
    assert settings.trusted_names == {"api", "rmbg.intra", "fd00::1"}


@pytest.mark.usefixtures("kept_loggers")
def test_an_audit_log_that_cannot_be_written_ends_the_start_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMBG_AUDIT_LOG", str(tmp_path))
    monkeypatch.setattr(gunicorn_conf, "make_shared_folder", lambda: None)
    with pytest.raises(SystemExit, match=r"RMBG_AUDIT_LOG: .* Is a directory"):
        gunicorn_conf.on_starting(None)
