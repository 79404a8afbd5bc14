"""The pages that are made from the code: `python -m deploy.reference` writes them anew.

A test holds what is committed against what the code says.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from api.app import API_EXTENSION, create_app
from api.errors import ERRORS
from api.services import Services
from api.settings import ApiSettings
from tasks.metrics.definitions import METRICS
from tasks.settings import variable

_MADE: Final = "made by `python -m deploy.reference`; change the code, not this file"
#: Defaults that depend on the machine.
_DERIVED: Final = MappingProxyType(
    {"host": "this machine's host name", "model_dir": "~/.cache/rmbg-queue/models"}
)


def settings_page() -> str:
    """`docs/settings.md`."""
    rows = "\n".join(
        f"| `{variable(name, field)}` | {_shown(name, field)} | {field.description} |"
        for name, field in ApiSettings.model_fields.items()
    )
    return (
        f"# Settings\n\n<!-- {_MADE} -->\n\n"
        "Environment variables, read once at start. Every one can come from a file instead: "
        "`RMBG_S3_SECRET_KEY_FILE=/run/secrets/s3` reads the file, without its last newline.\n\n"
        f"| variable | default | meaning |\n|---|---|---|\n{rows}\n"
    )


def environment_example() -> str:
    """`.env.example`."""
    parts = [f"# {_MADE}"]
    for name, field in ApiSettings.model_fields.items():
        value = _DERIVED.get(name) or _plain(field)
        parts.append(f"\n# {field.description}\n#{variable(name, field)}={value}")
    return "\n".join(parts) + "\n"


def errors_page() -> str:
    """`docs/errors.md`."""
    rows = "\n".join(
        f"| {row.status} | {row.code} | `{row.type}` | {row.message} |" for row in ERRORS.values()
    )
    return (
        f"# Errors\n\n<!-- {_MADE} -->\n\n"
        "An error has the HTTP status it says, and a body with the stable `code` (status × 100 + "
        "number), the stable `error.type`, a `message` for people and, in `error.fields`, what is "
        "wrong with which parameter. The message may change; the rest does not.\n\n"
        f"| HTTP | code | type | usual message |\n|---|---|---|---|\n{rows}\n"
    )


def metrics_page() -> str:
    """`docs/metrics.md`."""
    rows = "\n".join(
        f"| `{each.name}` | {each.kind} | {', '.join(f'`{label}`' for label in each.labels)} "
        f"| {each.home} | {each.text} |"
        for each in METRICS
    )
    return (
        f"# Metrics\n\n<!-- {_MADE} -->\n\n"
        "The API's `/metrics` shows what it counts and what Redis counts for all; ask one API "
        "host, or take the `max` over several. Each worker has a port of its own "
        "(`RMBG_METRICS_PORT`) for what only it knows. A label never holds anything that a client "
        "chose.\n\n"
        f"| name | kind | labels | shown by | meaning |\n|---|---|---|---|---|\n{rows}\n"
    )


def openapi_document() -> str:
    """`docs/openapi.json`."""
    app = create_app(Services.from_settings(ApiSettings.load()))
    return json.dumps(app.extensions[API_EXTENSION].document(), indent=1, ensure_ascii=False) + "\n"


def _shown(name: str, field: FieldInfo) -> str:
    value = _DERIVED.get(name) or _plain(field)
    return f"`{value}`" if value and name not in _DERIVED else value or "none"


def _plain(field: FieldInfo) -> str:
    default = field.default
    if default is None or default is PydanticUndefined:
        return ""
    return default.get_secret_value() if isinstance(default, SecretStr) else str(default)


#: Every made file by its path in the repository.
PAGES: Final[Mapping[str, Callable[[], str]]] = MappingProxyType(
    {
        "docs/settings.md": settings_page,
        "docs/errors.md": errors_page,
        "docs/metrics.md": metrics_page,
        ".env.example": environment_example,
        "docs/openapi.json": openapi_document,
    }
)


def main() -> None:
    """Write them all, below the folder that this is run in."""
    for path, page in PAGES.items():
        Path(path).write_text(page())


if __name__ == "__main__":
    main()
