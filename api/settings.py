"""The settings that only the API has."""

from pydantic import Field

from tasks.settings import Settings


class ApiSettings(Settings):
    """The shared settings, and those of HTTP."""

    api_workers: int = Field(2, ge=1, description="Processes that serve HTTP.")
    max_waiting: int = Field(
        64, ge=0, description="Requests of one API process that may wait for a task's end at once."
    )
    max_wait_seconds: int = Field(
        60, ge=1, le=300, description="Longest that one request may wait for a task's end."
    )
