"""The settings that only the API has."""

import re
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AnyHttpUrl, Field, SecretStr, field_validator

from tasks.settings import Settings

#: What browsers send as `Origin`: a scheme and a host, with a port that the scheme does not imply.
_ORIGIN = re.compile(r"https?://([^\s/?#@:\[\]]+|\[[\da-f:.]+\])(:\d+)?")
_NAME = re.compile(r"[\w.-]+|[\da-f:]*:[\da-f:.]*", re.ASCII)


class ApiSettings(Settings):
    """The shared settings and those of the API."""

    api_workers: int = Field(2, ge=1, description="Processes that serve HTTP.")
    max_batch_images: int = Field(100, ge=1, le=10_000, description="Most images in one batch.")
    auth: Literal["auto", "on", "off"] = Field(
        "auto",
        description="on: every request needs an API key; off: none does; auto: on, unless only "
        "this machine can reach the service and there are no keys.",
    )
    cors_origins: str = Field(
        "",
        description="Origins, comma-separated, whose web pages may call the API from a browser: "
        "https://shop.example; * for all.",
    )
    public_url: AnyHttpUrl | None = Field(
        None,
        description="URL of the service as callers reach it, with the path below which a proxy "
        "publishes it: https://pictures.example/rmbg. Every URL in an answer is made from it; "
        "without it, from the header Host.",
    )
    trusted_hosts: str = Field(
        "",
        description="Names, comma-separated, that the service may be called by where it asks for "
        "no API key, beside localhost and the host of RMBG_PUBLIC_URL: rmbg.intra,api.",
    )
    trusted_proxies: int = Field(
        0,
        ge=0,
        le=10,
        description="Number of proxies in front of the API, each of which sets X-Forwarded-For, "
        "-Proto, -Host and -Prefix or removes what a caller sent; 0 to ignore these headers.",
    )
    metrics_token: SecretStr | None = Field(
        None,
        min_length=16,
        description="Bearer token that the API's /metrics asks for. Without it, /metrics answers "
        "only this machine's loopback.",
    )

    audit_log: Path | None = Field(
        None,
        description="File of the audit log, as JSON lines, ten full ones of 50 MB beside it; the "
        "API's log if unset.",
    )
    flower_url: AnyHttpUrl | None = Field(
        None, description="Where operators find Flower, for a link at /ops; `rmbg up` sets it."
    )
    grafana_url: AnyHttpUrl | None = Field(
        None, description="Where operators find Grafana, for a link at /ops."
    )
    removebg_megapixels_per_minute: float = Field(
        500,
        ge=0,
        description="Megapixels that one caller may send to /v1.0/removebg in a minute; an image "
        "costs at least 1. 0 for no limit.",
    )
    removebg_png_megapixels: float = Field(
        0, ge=0, description="Most megapixels of a PNG from /v1.0/removebg; 0 for no limit."
    )
    removebg_keep_improvements: bool = Field(
        False,
        description="Keep images sent to /v1.0/improve, for RMBG_RETENTION_HOURS.",
    )

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in _split(value):
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"should be origins such as https://shop.example, not {origin}")
        return value

    @field_validator("trusted_hosts")
    @classmethod
    def _are_names(cls, value: str) -> str:
        for name in _split(value):
            if not _NAME.fullmatch(name):
                raise ValueError(f"should be names such as rmbg.intra, without a port, not {name}")
        return value

    @field_validator("public_url")
    @classmethod
    def _is_base(cls, value: AnyHttpUrl | None) -> AnyHttpUrl | None:
        if value is not None and (value.query or value.fragment or value.username):
            raise ValueError("should be such as https://pictures.example/rmbg, without ? # or @")
        return value

    @cached_property
    def public_address(self) -> SplitResult | None:
        """The public URL in its parts; `netloc` without a port that its scheme implies."""
        return urlsplit(str(self.public_url)) if self.public_url else None

    @cached_property
    def trusted_names(self) -> frozenset[str]:
        """Names that the service may be called by, beside those of loopback."""
        public = self.public_address.hostname if self.public_address else None
        return frozenset((*_split(self.trusted_hosts.lower()), *([public] if public else ())))

    @property
    def cors_allowed(self) -> tuple[str, ...]:
        """Return the origins as a tuple."""
        return _split(self.cors_origins)


def _split(value: str) -> tuple[str, ...]:
    return tuple(part.strip().rstrip("/").lower() for part in value.split(",") if part.strip())
