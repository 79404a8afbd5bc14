"""Reads queries strictly: a parameter that is not known is refused by name."""

from collections.abc import Callable
from typing import Any, TypeVar

from flask_smorest import Blueprint
from webargs.flaskparser import FlaskParser

from api.errors import ERRORS
from api.openapi.answers import ERRORS_NOTE

Handler = TypeVar("Handler", bound=Callable[..., Any])


class StrictParser(FlaskParser):
    """Leaves it to each schema what it does with a query that it does not know."""

    DEFAULT_UNKNOWN_BY_LOCATION = {  # noqa: RUF012 - webargs' own attribute
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        # None leaves it to the schema, which refuses what it does not know.
        "query": None,
    }


class FormBlueprint(Blueprint):  # type: ignore[misc] # flask-smorest publishes no types
    """A blueprint whose queries are read strictly, and whose errors are noted by name."""

    ARGUMENTS_PARSER = StrictParser()

    def fails(self, *errors: str) -> Callable[[Handler], Handler]:
        """Note which errors of the table a handler ends with, beside those that many do.

        These are documented for every handler that they fit: 401, 404 for what its path names,
        400, 413, 415 and 422 for what it reads, 500, and 503 while Redis is away.
        """
        unknown = set(errors) - set(ERRORS)
        if unknown:
            raise ValueError(f"Not in the table of errors: {', '.join(sorted(unknown))}.")
        note: Callable[[Handler], Handler] = self.doc(**{ERRORS_NOTE: list(errors)})
        return note
