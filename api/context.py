"""How a handler reaches the dependencies of its application."""

from typing import Final, cast

from flask import current_app

from api.services import Services

EXTENSION: Final = "rmbg"


def services() -> Services:
    """The services of the application that handles this request."""
    return cast("Services", current_app.extensions[EXTENSION])
