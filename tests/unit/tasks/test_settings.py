import os
import subprocess
import sys
from pathlib import Path

import pytest

from api.settings import ApiSettings
from tasks.errors import SettingsError
from tasks.s3_access import _credentials_file
from tasks.settings import Settings, unknown_variables, variable


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMBG_REDIS_URL", "http://:hunter2@nowhere")
    monkeypatch.setenv("RMBG_RETENTION_HOURS", "-1")
    monkeypatch.setenv("RMBG_PRECISION", "fp8")
    monkeypatch.setenv("RMBG_S3_ENDPOINT", "http://user:hunter2@127.0.0.1:9000")
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    text = str(caught.value)
    names = ("REDIS_URL", "RETENTION_HOURS", "PRECISION", "S3_ENDPOINT", "RMBG_S3_ACCESS_KEY")
    assert all(name in text for name in names)
    assert "greater than 0. Meaning: Hours for which an original" in text
    assert "hunter2" not in f"{text} {caught.value.__cause__}", "a secret is not repeated"


def test_a_secret_comes_from_a_file_and_is_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(b"s3cr3t\r\n")
    monkeypatch.setenv("RMBG_S3_SECRET_KEY_FILE", str(tmp_path / "secret"))
    settings = Settings.load(redis_url=" redis://:s3cr3t@localhost/0\n", s3_access_key="a")
    assert settings.s3_secret_key.get_secret_value() == "s3cr3t"
    assert settings.redis_url.get_secret_value() == "redis://:s3cr3t@localhost/0"
    assert "s3cr3t" not in repr(settings)
    (tmp_path / "binary").write_bytes(b"s3cr3t\xff")
    for unreadable in ("/nowhere/secret", str(tmp_path), str(tmp_path / "binary")):
        monkeypatch.setenv("RMBG_S3_SECRET_KEY_FILE", unreadable)
        with pytest.raises(SettingsError, match=f"RMBG_S3_SECRET_KEY_FILE .*{unreadable}"):
            Settings.load()


def test_a_wrong_setting_ends_a_celery_command_without_trace_or_secret() -> None:
    done = subprocess.run(
        (sys.executable, "-m", "celery", "-A", "tasks.app", "report"),
        env={**os.environ, "RMBG_REDIS_URL": "http://:hunter2@nowhere"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "RMBG_REDIS_URL: should look like" in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://:hunter2@h/0?ssl_ca_certs=/ca.pem", "ssl_ca_certs: only a rediss:// URL has TLS"),
        ("rediss://:hunter2@h/0?ssl_ca_cert=/ca.pem", "redis-py has no option ssl_ca_cert"),
        ("rediss://:hunter2@h/0?ssl_cert_reqs=CERT_NONE", "one of required, optional, none"),
        ("rediss://:hunter2@h/0?ssl_check_hostname=x&ssl_min_version=y", "ssl_min_version"),
        ("redis://:hunter2@h/0?socket_timeout=9", "has the option socket_timeout"),
        ("redis://:hunter2@h/3?db=4", "one database, by its number"),
        ("redis://:hunter2@a,b/0", "names several hosts"),
        ("redis://:hunter2#x@h/0", "in a password, / . # @ are written"),
        ("unix://:hunter2@run/redis.sock", "a socket's whole path"),
        ("http://:hunter2@h/0", "should look like redis://"),
    ],
)
def test_a_wrong_redis_url_is_refused_at_start(url: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as refused:
        Settings.load(redis_url=url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        *(
            (name, f"https://s3.example/{rest}", "should end behind the host and port")
            for name in ("s3_endpoint", "s3_public_endpoint")
            for rest in ("storage/v1/s3/", "?x=y", "#x")
        ),
        ("s3_endpoint", "https://rmbg.s3.eu-west-1.amazonaws.com", "the address of the service"),
        ("s3_region", "eu west", "s3_region|S3_REGION"),
        ("s3_addressing_style", "host", "'auto', 'path' or 'virtual'"),
        ("s3_ca_file", "/nowhere/ca.pem", "RMBG_S3_CA_FILE"),
        ("s3_ca_file", __file__, "holds no certificates of authorities, as PEM"),
        ("s3_credentials", "aws", "RMBG_S3_ACCESS_KEY exclude each other"),
        ("s3_secret_key", "", "RMBG_S3_ACCESS_KEY and RMBG_S3_SECRET_KEY need each other"),
        ("s3_access_key", "", "RMBG_S3_ACCESS_KEY and RMBG_S3_SECRET_KEY need each other"),
        ("s3_bucket", "shop..pictures", "invalid successive characters"),
        ("s3_bucket", "10.0.0.1", "must not be formatted as an IP address"),
    ],
)
def test_a_store_that_cannot_be_reached_as_told_is_refused_at_start(
    name: str, value: str, problem: str
) -> None:
    with pytest.raises(SettingsError, match=problem):
        Settings.load(**{"s3_access_key": "a", "s3_secret_key": "b", name: value})


@pytest.mark.parametrize(
    ("name", "values", "problem"),
    [
        *(
            (name, ("inf", "1e300", "-1"), f"{name.upper()}: Input should be ")
            for name in ("queue_seconds", "shutdown_seconds", "time_limit")
        ),
        ("max_image_mb", ["inf"], "finite"),
        ("max_megapixels", ["inf"], "finite"),
        ("webhook_retries", ["5,", "5;300", "5,inf"], "such as 5,300"),
    ],
)
def test_a_time_or_size_beyond_all_bounds_is_refused_at_start(
    name: str, values: list[str], problem: str
) -> None:
    for value in values:
        with pytest.raises(SettingsError, match=problem):
            Settings.load(**{name: value})


def test_a_misspelt_variable_is_told_with_what_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    misspelt = {
        "RMBG_MAX_PENDNG": "RMBG_MAX_PENDING",
        "RMBG_S3_SECRETKEY_FILE": "RMBG_S3_SECRET_KEY_FILE",
        "RMBG_RETENTION": "RMBG_RETENTION_HOURS",
        "RMBG_S3_BUCKET_NAME": "RMBG_S3_BUCKET",
    }
    # The last is of a client, and the one before may be either of two.
    for name in (*misspelt, "RMBG_SHOE_SIZE", "RMBG_REDIS", "RMBG_API_KEY"):
        monkeypatch.setenv(name, "5")
    unknown = {**misspelt, "RMBG_SHOE_SIZE": "", "RMBG_REDIS": ""}
    assert unknown_variables(ApiSettings) == unknown
    # A worker takes none of the API's settings for misspelt.
    for name in ApiSettings.model_fields:
        monkeypatch.setenv(variable(name), "x")
    assert unknown_variables(Settings, only_misspelt=True) == misspelt


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    unset = ApiSettings.load()
    for name in ApiSettings.model_fields:
        monkeypatch.setenv(variable(name), " \r\n" if name == "redis_url" else "")
        monkeypatch.setenv(f"{variable(name)}_FILE", "")
    assert ApiSettings.load() == unset
    assert unset.environment() == {}


def test_a_user_without_a_home_folder_can_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "RMBG_MODEL_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    assert Settings.load().model_dir == Path("/var/cache/rmbg-queue/models")
    assert not _credentials_file({}).is_file()


def test_given_settings_come_back_from_their_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ApiSettings.load(
        retention_hours=768,
        redis_url="redis://:hunter2@127.0.0.1/0",
        audit_log="audit.log",
        removebg_keep_improvements=True,
        public_url="https://pictures.example/rmbg",
        threads=3,
        metrics_token=None,
    )
    environment = given.environment()
    assert environment["RMBG_AUDIT_LOG"] == str(tmp_path / "audit.log")
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    loaded = ApiSettings.load()
    assert loaded == given.model_copy(update={"audit_log": tmp_path / "audit.log"})
