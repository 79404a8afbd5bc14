"""Reads queries strictly: a parameter that is not known is refused by name."""

from flask_smorest import Blueprint
from webargs.flaskparser import FlaskParser


class StrictParser(FlaskParser):
    """Leaves it to each schema what it does with a query that it does not know."""

    DEFAULT_UNKNOWN_BY_LOCATION = {  # noqa: RUF012 - webargs' own attribute
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        # None leaves it to the schema, which refuses what it does not know.
        "query": None,
    }


class FormBlueprint(Blueprint):  # type: ignore[misc] # flask-smorest publishes no types
    """A blueprint whose queries are read strictly."""

    ARGUMENTS_PARSER = StrictParser()
