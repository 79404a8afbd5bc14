"""Celery's command line, whose `flower` answers only requests that name this machine's loopback.

Flower checks no `Host`, so a web page could reach it by DNS rebinding.
"""

import sys
from typing import Any, Final

import flower.command
from celery.bin.celery import main
from flower.app import Flower
from tornado.web import ErrorHandler

from api.origins import host_name, is_loopback

_MISDIRECTED: Final = 421


class LoopbackFlower(Flower):  # type: ignore[misc] # it publishes no types
    """Flower for this machine alone."""

    def find_handler(self, request: Any, **options: Any) -> Any:  # noqa: ANN401 - tornado's
        """Choose the handler of a request, or refuse it by the name that it was sent to."""
        if is_loopback(host_name(request.host)):
            return super().find_handler(request, **options)
        return self.get_handler_delegate(request, ErrorHandler, {"status_code": _MISDIRECTED})


if __name__ == "__main__":
    flower.command.Flower = LoopbackFlower
    sys.exit(main())
