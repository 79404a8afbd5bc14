"""Structured logs: JSON for machines, columns at a terminal."""

import logging
import sys
from io import StringIO
from pathlib import Path
from typing import Final, TextIO

import structlog

from tasks.audit import audit_to_file
from tasks.errors import SettingsError
from tasks.settings import Settings, unknown_variables

#: Longest text of a line's field: callers choose paths of 64 KiB and headers that end up in errors.
MAX_TEXT: Final = 2000


def cut_texts(
    _logger: object, _method: str, fields: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Cut each text of a log line to `MAX_TEXT` characters; tracebacks come later, and stay."""
    for name, value in fields.items():
        if isinstance(value, str) and len(value) > MAX_TEXT:
            fields[name] = f"{value[:MAX_TEXT]}… ({len(value)} characters)"
    return fields


def put_time_first(
    _logger: object, _method: str, fields: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Put a line's time before its other fields, so that several logs can be sorted."""
    return {"timestamp": fields.pop("timestamp", ""), **fields}


def escape_texts(
    _logger: object, _method: str, fields: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Escape what a terminal would obey in the texts of a log line, such as paths of callers."""
    for name, value in fields.items():
        if isinstance(value, str):
            fields[name] = _escaped(value, kept="\n" if name == "event" else "")
    return fields


def _escaped(text: str, kept: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        each if each in kept or each.isprintable() else each.encode("unicode_escape").decode()
        for each in text
    )


def _write_traceback(to: TextIO, error: structlog.typing.ExcInfo) -> None:
    """Write a traceback without local variables, and with them secrets, as the default has them."""
    plain = StringIO()
    structlog.dev.plain_traceback(plain, error)
    to.write(_escaped(plain.getvalue(), kept="\n"))


def _preparing() -> list[structlog.typing.Processor]:
    """Return the steps that each line goes through before it is written in some format."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        cut_texts,
    ]


def _formatter(*, as_json: bool) -> logging.Formatter:
    """Return what writes lines, those of libraries too: as JSON, or as columns for people."""
    writing: list[structlog.typing.Processor] = (
        [
            structlog.processors.format_exc_info,
            put_time_first,
            structlog.processors.JSONRenderer(),
        ]
        if as_json
        else [
            escape_texts,
            structlog.dev.ConsoleRenderer(
                colors=sys.stdout.isatty(),
                pad_event_to=0,
                exception_formatter=_write_traceback,
            ),
        ]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_preparing(),
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *writing],
    )


def configure_logging(settings: Settings, *, audit_log: Path | None = None) -> None:
    """Write all log lines, those of libraries too, to standard output in one format.

    The audit log goes, as JSON, to a file of its own if one is given.

    Raises:
        SettingsError: that file cannot be written.
    """
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and not sys.stdout.isatty()
    )
    structlog.configure(
        processors=[*_preparing(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_formatter(as_json=as_json))
    if audit_log is not None:
        try:
            audit_to_file(audit_log, _formatter(as_json=True))
        except OSError as error:
            raise SettingsError(
                f"RMBG_AUDIT_LOG: {audit_log} cannot be written: {error.strerror}."
            ) from error
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    # Kombu repeats our lines, with the broker's password in them.
    logging.getLogger("kombu").setLevel(logging.WARNING)
    # urllib3 warns with whole URLs, and a webhook's URL may hold a secret.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def log_to_stderr() -> None:
    """Write a command's log lines to standard error: standard output holds its answer alone."""
    structlog.configure(logger_factory=_stderr_logger)


def _stderr_logger(*_: object) -> structlog.PrintLogger:
    return structlog.PrintLogger(sys.stderr)


def log_unknown_variables(known: type[Settings], *, only_misspelt: bool = False) -> None:
    """Warn of each variable `RMBG_*` that is no setting: whoever set it meant one."""
    for name, meant in unknown_variables(known, only_misspelt=only_misspelt).items():
        hint = {"meant": meant} if meant else {}
        structlog.get_logger(__name__).warning("settings.unknown", name=name, **hint)
