"""The settings, read from `RMBG_*` once and checked at start; one error lists all that are wrong.

A secret, or any other setting, can come from a file: `RMBG_S3_SECRET_KEY_FILE=/run/secrets/s3`.
Spaces and line ends around a value are no part of it, and a variable that is empty counts as unset.
"""

import base64
import os
import socket
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Self

from minio.helpers import check_bucket_name
from pydantic import (
    AnyHttpUrl,
    DirectoryPath,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from inference.models.birefnet.config import PatchOrder
from inference.probe import ImageLimits
from tasks.errors import SettingsError
from tasks.net.url_guard import AllowList
from tasks.redis_address import RedisAddress
from tasks.s3_access import REGION_PATTERN, check_address, check_authorities

PREFIX = "RMBG_"


def _default_model_dir() -> Path:
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        # A container's user of any number has no home folder.
        cache = "/var/cache"
    return Path(cache) / "rmbg-queue" / "models"


def variable(name: str) -> str:
    """Return the environment variable of a setting: `RMBG_<NAME>`."""
    return f"{PREFIX}{name.upper()}"


#: OpenTelemetry's variables that name a collector, read by its SDK.
_TRACE_COLLECTORS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

#: Where several processes count together; the name is that of Prometheus's client.
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

#: Variables `RMBG_*` that are no settings of the service: those of its clients and its own parts.
_OTHER_VARIABLES = frozenset({"RMBG_API_KEY", "RMBG_LOOPBACK_ONLY", "RMBG_PUBLIC_ADDRESS"})

#: From this similarity on, one name may be meant by another (difflib; 1 is equal).
_NEAR = 0.88

_WEBHOOK_SECRET_SIZES = range(24, 65)

#: Longer times are not meant, and beyond what calendars and timers can hold some day.
_MOST_SECONDS: Final = 365 * 24 * 3600


def visible_gpus() -> tuple[str, ...]:
    """Return the GPUs that CUDA is limited to, by index or UUID; empty means all."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return tuple(gpu.strip() for gpu in named.split(",") if gpu.strip())


def aws_variables() -> dict[str, str]:
    """Return Amazon's own variables, which say where the credentials of a role come from."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_") and value}


def child_variables(added: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a process that this one starts: its own, and others added.

    A file of an added setting, whose path may be seen from here alone, is not read again.
    """
    files = {f"{name}_FILE" for name in added}
    return {**{name: each for name, each in os.environ.items() if name not in files}, **added}


def is_tracing_configured() -> bool:
    """Return whether OpenTelemetry's own variables name a collector for traces."""
    return any(os.environ.get(name) for name in _TRACE_COLLECTORS)


def metrics_folder() -> Path | None:
    """Return the folder in which this process and its siblings count together, if there is one."""
    path = os.environ.get(_METRICS_FOLDER)
    return Path(path) if path else None


def set_metrics_folder(folder: Path | None) -> None:
    """Set that folder for this process and the processes that it starts."""
    if folder is None:
        os.environ.pop(_METRICS_FOLDER, None)
    else:
        os.environ[_METRICS_FOLDER] = str(folder)


def unknown_variables(known: type["Settings"], *, only_misspelt: bool = False) -> dict[str, str]:
    """Return the variables `RMBG_*` that are no settings, with what may be meant for each.

    A name that resembles no setting has "" there, and is left out with `only_misspelt`: a process
    that knows only the shared settings takes the API's for unknown.
    """
    names = {variable(name) for name in known.model_fields}
    given = {name for name in os.environ if name.startswith(PREFIX)} - names - _OTHER_VARIABLES
    found = {}
    for name in sorted(given):
        setting = name.removesuffix("_FILE")
        if setting not in names:
            near = get_close_matches(setting, sorted(names), 1, _NEAR) or [
                each for each in names if each.startswith(setting) or setting.startswith(each)
            ]
            found[name] = near[0] + name.removeprefix(setting) if len(near) == 1 else ""
    return {name: meant for name, meant in found.items() if meant or not only_misspelt}


def _from_files(names: Iterable[str]) -> dict[str, str]:
    """Read the settings that have a variable `RMBG_<NAME>_FILE`.

    Raises:
        SettingsError: a file cannot be read, or is no text.
    """
    texts = {}
    for name in names:
        file = f"{variable(name)}_FILE"
        if path := os.environ.get(file):
            try:
                texts[name] = Path(path).read_text(encoding="utf-8")
            except OSError as error:
                raise SettingsError(f"{file} cannot be read: {error}") from error
            except UnicodeDecodeError:
                # The text of the cause would hold a part of the secret.
                raise SettingsError(f"{file} names {path}, which is no text in UTF-8") from None
    return texts


def _explain(fault: ErrorDetails, meaning: str) -> str:
    """Return what is wrong with a setting, and what it should be, without its value."""
    if fault["type"] == "value_error":
        return fault["msg"].removeprefix("Value error, ")
    text = fault["msg"]
    if fault["type"] == "too_short":
        text = f"Value should have at least {fault['ctx']['min_length']} characters"
    return f"{text}. Meaning: {meaning}"


def _as_text(value: object) -> str:
    """Return a setting's value as its variable has it; an empty one counts as unset."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return "" if value is None else str(value.resolve() if isinstance(value, Path) else value)


class Settings(BaseSettings):
    """The settings that the API, the workers and the command line share."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        # Whoever prints the cause of a refusal prints no password.
        hide_input_in_errors=True,
    )

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="URL of Redis or Valkey: redis://user:password@host:6379/0, "
        "unix:///run/redis.sock?db=0, or redis+sentinel://:password@host1,host2:26379/mymaster/0; "
        "rediss:// for TLS, with options as redis-py names them: ?ssl_ca_certs=/etc/ca.pem. The "
        "server's certificate is verified, unless the URL says ssl_cert_reqs=none.",
    )
    redis_prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._:-]{0,64}$",
        description="What every key in Redis begins with, Celery's included, such as shop: for a "
        "database that is shared with other programs. Set it before the first start: what is "
        "recorded without it, or with another one, is not found.",
    )
    s3_endpoint: AnyHttpUrl = Field(
        AnyHttpUrl("http://127.0.0.1:9000"),
        description="URL of the object store, as the service reaches it: scheme, host and port.",
    )
    s3_public_endpoint: AnyHttpUrl | None = Field(
        None, description="URL of the object store as clients reach it, for signed URLs."
    )
    s3_access_key: str = Field("", description="Access key of the object store.")
    s3_secret_key: SecretStr = Field(
        SecretStr(""), validate_default=True, description="Secret key of the object store."
    )
    s3_credentials: Literal["keys", "aws"] = Field(
        "keys",
        description="Where the object store's keys come from: keys, the two settings above; aws, "
        "from where Amazon's tools look for them: AWS_ACCESS_KEY_ID with AWS_SESSION_TOKEN, "
        "AWS_WEB_IDENTITY_TOKEN_FILE, a credentials file, or the role of the container or machine.",
    )
    s3_bucket: str = Field(
        "rmbg",
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="Name of the bucket; created at start.",
    )
    s3_region: str | None = Field(
        None,
        pattern=REGION_PATTERN,
        description="Region that requests are signed for; if unset, the one that an address of "
        "Amazon names, else us-east-1.",
    )
    s3_addressing_style: Literal["auto", "path", "virtual"] = Field(
        "auto",
        description="Where requests name the bucket: path, or virtual for the host "
        "(https://rmbg.s3.example/); auto is virtual for Amazon and Aliyun, path for all others.",
    )
    s3_ca_file: FilePath | None = Field(
        None,
        description="File with the authorities that may vouch for the object store, as PEM, "
        "instead of the system's.",
    )
    s3_sync_dir: DirectoryPath | None = Field(
        None,
        description="The folder of an object store on this machine that answers before its files "
        "are on the disk, as SeaweedFS does: the service syncs the folder's disk before a picture "
        "counts as stored, so that a power failure loses none. `rmbg up` sets it.",
    )
    data_dir: DirectoryPath | None = Field(
        None,
        description="A folder on the disk that holds the files of Redis and the object store, if "
        "that is on this machine: nothing new is accepted while less than 512 MiB of it are free. "
        "`rmbg up` sets it.",
    )
    retention_hours: float = Field(
        24,
        gt=0,
        le=24 * 365,
        description="Hours for which an original, its result and its record are kept; a change "
        "holds for what is submitted from then on.",
    )
    url_seconds: int = Field(
        3600,
        gt=0,
        le=7 * 24 * 3600,
        description="Seconds for which a signed URL of a picture works, if the picture is kept for "
        "so long; whoever asks for the task again gets new ones.",
    )
    model: str = Field("u2netp", description="Name of the served model; see `rmbg models list`.")
    model_path: Path | None = Field(
        None, description="File or folder of the weights, if they are not fetched."
    )
    model_dir: Path = Field(
        default_factory=_default_model_dir, description="Folder of the fetched weights."
    )
    patch_order: Literal["auto", "columns-rows-colors", "colors-rows-columns"] = Field(
        "auto",
        description="Patch order of a BiRefNet checkpoint: columns-rows-colors or "
        "colors-rows-columns; auto looks it up by the file's SHA-256, else by the model's name.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Device of the model: auto, cpu, cuda or cuda:N.",
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto", description="Precision of the model: auto, fp32, fp16 or bf16."
    )
    compile_dir: Path | None = Field(
        default=None,
        description="Folder in which torch's compiler keeps its output for the next start; "
        "`compiled` in RMBG_MODEL_DIR if unset. It holds code: give nobody else access.",
    )
    compile: Literal["auto", "off"] = Field(
        "auto",
        description="Execution path of a BiRefNet model: auto takes the fastest one that the "
        "device supports, off the reference path.",
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of a model worker; all cores if unset."
    )
    host: str = Field(
        default_factory=socket.gethostname,
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="Name of this machine in queue names; keep it stable over restarts.",
    )
    routing: Literal["gpu", "shared"] = Field(
        "gpu", description="gpu sends a job to the GPU that is free soonest; shared never binds it."
    )
    time_limit: int | None = Field(
        None,
        ge=2,
        le=_MOST_SECONDS,
        description="Seconds after which a job's process is killed and the job retried; if unset, "
        "30 for small models, 60 on a GPU, 180 on a CPU.",
    )
    shutdown_seconds: float = Field(
        30,
        ge=0,
        le=_MOST_SECONDS,
        description="Grace period in seconds of a worker's shutdown: a job that still runs after "
        "it goes back to the queue.",
    )
    max_memory_mb: int | None = Field(
        None, ge=256, description="Memory above which a model process is replaced after its job."
    )
    max_pending: int = Field(
        10_000, ge=0, description="Most jobs that may be queued or running; 0 for no limit."
    )
    owner_max_stored_mb: float = Field(
        100 * 1024,
        ge=0,
        description="Most MB of 2^20 bytes that one owner may have stored (originals, backgrounds, "
        "results, uploads), unless its key has a quota of its own; 0 for no limit.",
    )
    owner_max_uploads: int = Field(
        1000,
        ge=0,
        description="Most unfinished uploads of one owner, unless its key has a quota of its own; "
        "0 for no limit. With complete ones, it may have ten times as many.",
    )
    owner_max_pending: int = Field(
        0,
        ge=0,
        description="Most queued or running jobs of one owner, unless its key has a quota of its "
        "own; 0 for no limit. Where there are several keys, an owner also has no more of "
        "RMBG_MAX_PENDING than it leaves free.",
    )
    queue_seconds: float = Field(
        24 * 3600,
        gt=0,
        le=_MOST_SECONDS,
        description="Seconds after which a job that no worker has begun fails. A caller's "
        "`expires_in` can only shorten that, and RMBG_RETENTION_HOURS limits it. Raise both for "
        "batches that take longer than a day.",
    )
    max_image_mb: float = Field(10, gt=0, description="Largest upload, in MB of 2^20 bytes.")
    max_megapixels: float = Field(50, gt=0, description="Largest image, in millions of pixels.")
    url_allow: str = Field(
        "",
        description="Hosts and networks, comma-separated, that image and webhook URLs may lead to "
        "although they are not public: hooks.intra,.shop.intra,10.0.0.0/8.",
    )
    user_agent: str = Field(
        "rmbg-queue",
        pattern=r"^[!-~]([ -~]{0,198}[!-~])?$",
        description="Header User-Agent of what the service sends: fetches of pictures, webhooks. "
        "Some sites refuse agents that they do not know, or ask for an address to write to: "
        "shop-pictures/1.0 (admin@shop.example).",
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description="Signs the webhooks of callers without an API key: whsec_ and base64 of 24 to "
        "64 random bytes.",
    )
    webhook_retries: str = Field(
        "5,300,1800,7200,18000,36000,50400,72000,86400",
        description="Seconds after the first, second, ... failed attempt at a webhook.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged: debug, info, warning or error."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto",
        description="Format of the log: json, console, or auto, which is console on a terminal.",
    )

    metrics_port: int = Field(
        0, ge=0, le=65535, description="Port of a worker's own metrics; 0 for none."
    )
    metrics_address: str = Field(
        "127.0.0.1", min_length=1, description="Address that a worker's metrics port listens on."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_space_around(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Strip values, as a file's line ends of another system would make keys wrong."""
        stripped = {
            name: value.strip() if isinstance(value, str) else value
            for name, value in values.items()
        }
        return {name: value for name, value in stripped.items() if value or values[name] == value}

    @field_validator("patch_order", mode="before")
    @classmethod
    def _understand_former_names(cls, value: object) -> object:
        return value if value not in {"rmbg-2.0", "birefnet"} else PatchOrder(value).value

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, value: SecretStr) -> SecretStr:
        RedisAddress.parse(value.get_secret_value())
        return value

    @cached_property
    def redis_address(self) -> RedisAddress:
        """Where Redis is, and what stands before every key there."""
        return RedisAddress.parse(self.redis_url.get_secret_value(), self.redis_prefix)

    @field_validator("s3_endpoint", "s3_public_endpoint")
    @classmethod
    def _s3_endpoint(cls, value: AnyHttpUrl | None) -> AnyHttpUrl | None:
        if value is not None and (value.username or value.password):
            raise ValueError(
                "should hold no user or password; give them in RMBG_S3_ACCESS_KEY and "
                "RMBG_S3_SECRET_KEY"
            )
        if value is not None:
            check_address(str(value))
        return value

    @field_validator("s3_secret_key")
    @classmethod
    def _s3_secret_key(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        if bool(value.get_secret_value()) != bool(info.data.get("s3_access_key")):
            raise ValueError("RMBG_S3_ACCESS_KEY and RMBG_S3_SECRET_KEY need each other; set both")
        return value

    @field_validator("s3_bucket")
    @classmethod
    def _s3_bucket(cls, value: str) -> str:
        check_bucket_name(value, strict=True)
        return value

    @field_validator("s3_credentials")
    @classmethod
    def _s3_credentials(cls, value: str, info: ValidationInfo) -> str:
        if value == "aws" and info.data.get("s3_access_key"):
            raise ValueError("aws and RMBG_S3_ACCESS_KEY exclude each other; unset one of them")
        return value

    @field_validator("s3_ca_file")
    @classmethod
    def _s3_ca_file(cls, value: Path | None) -> Path | None:
        if value is not None:
            check_authorities(value)
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _webhook_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        kind, _, text = value.get_secret_value().partition("_")
        try:
            size = len(base64.b64decode(text, validate=True))
        except ValueError:
            size = 0
        if kind != "whsec" or size not in _WEBHOOK_SECRET_SIZES:
            raise ValueError(
                "A webhook secret is whsec_ and base64 of 24 to 64 random bytes, such as "
                'the output of: echo "whsec_$(openssl rand -base64 32)"'
            )
        return value

    @field_validator("webhook_retries")
    @classmethod
    def _webhook_retries(cls, value: str) -> str:
        try:
            pauses = [float(pause) for pause in value.split(",")]
        except ValueError:
            pauses = [-1]
        if not all(0 <= pause <= _MOST_SECONDS for pause in pauses):
            raise ValueError("should be seconds, comma-separated, such as 5,300,1800")
        return value

    @field_validator("url_allow")
    @classmethod
    def _url_allow(cls, value: str) -> str:
        AllowList.parse(value)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments first, then the environment, then the `_FILE` variables."""
        files = InitSettingsSource(settings_cls, _from_files(settings_cls.model_fields))
        return init_settings, env_settings, files

    @classmethod
    def load(cls, **values: object) -> Self:
        """Read the settings of this process.

        Raises:
            SettingsError: settings are wrong; its text has a line for each.
        """
        try:
            return cls(**values)  # type: ignore[arg-type] # checked by pydantic, which is the point
        except ValidationError as error:
            lines = [
                f"  {variable(name)}: {_explain(fault, cls.model_fields[name].description or '')}"
                for fault in error.errors(include_input=False, include_url=False)
                for name in (str(fault["loc"][0]),)
            ]
            raise SettingsError("\n".join(["These settings are wrong:", *lines])) from error

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with changes, from which the values below are computed again."""
        copied = super().model_copy(update=update, deep=deep)
        for name in vars(copied).keys() - type(self).model_fields.keys():
            del vars(copied)[name]
        return copied

    def environment(self) -> dict[str, str]:
        """Return the settings that were given, secrets included, as variables; paths are whole."""
        return {
            variable(name): _as_text(getattr(self, name)) for name in sorted(self.model_fields_set)
        }

    def model_file(self, fetched: str) -> Path:
        """Return the path of the weights: `RMBG_MODEL_PATH`, or the fetched file."""
        return self.model_path or self.model_dir / fetched

    @cached_property
    def webhook_pauses(self) -> tuple[float, ...]:
        """Pauses between the attempts at a webhook, in seconds."""
        return tuple(map(float, self.webhook_retries.split(",")))

    @cached_property
    def image_limits(self) -> ImageLimits:
        """Limits of an image's pixels."""
        return ImageLimits(max_pixels=int(self.max_megapixels * 1_000_000))

    @cached_property
    def max_image_bytes(self) -> int:
        """Size of the largest upload, in bytes."""
        return int(self.max_image_mb * 2**20)
