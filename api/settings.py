"""The settings that only the API has."""

from typing import Literal

from pydantic import Field, field_validator

from tasks.settings import Settings


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
            if origin != "*" and not origin.startswith(("http://", "https://")):
                raise ValueError(f"should be origins such as https://shop.example, not {origin}")
        return value

    @property
    def cors_allowed(self) -> tuple[str, ...]:
        """Return the origins as a tuple."""
        return _split(self.cors_origins)


def _split(value: str) -> tuple[str, ...]:
    return tuple(part.strip().rstrip("/") for part in value.split(",") if part.strip())
