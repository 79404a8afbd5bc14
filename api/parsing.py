"""Reads multipart forms: the file and the words beside it are one set of parameters."""

from collections.abc import Mapping
from typing import Any

from flask import Request
from flask_smorest import Blueprint
from marshmallow import Schema
from webargs.flaskparser import FlaskParser
from werkzeug.datastructures import CombinedMultiDict


class FormParser(FlaskParser):
    """In the location `files`, the form's text fields are parameters too."""

    DEFAULT_UNKNOWN_BY_LOCATION = {  # noqa: RUF012 - webargs' own attribute
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        # None leaves it to the schema, which refuses what it does not know.
        "files": None,
        "query": None,
    }

    def load_files(self, req: Request, schema: Schema) -> Mapping[str, Any]:
        """Text fields and files together."""
        both: CombinedMultiDict[str, Any] = CombinedMultiDict([req.form, req.files])
        return self._makeproxy(both, schema)


class FormBlueprint(Blueprint):  # type: ignore[misc] # flask-smorest publishes no types
    """A blueprint whose `files` location is a whole multipart form."""

    ARGUMENTS_PARSER = FormParser()
