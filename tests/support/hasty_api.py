"""The API, but for the time that /v1.0/removebg waits for a result: a second."""

import api.removebg.route
from api.app import create_app

api.removebg.route.WAIT_SECONDS = 1.0

__all__ = ["create_app"]
