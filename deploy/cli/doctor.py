"""`rmbg doctor`: looks at everything, and says what to do."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from deploy.doctor.examination import examine
from deploy.doctor.findings import Finding, Level

_COLORS: Final[Mapping[Level, str]] = MappingProxyType(
    {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
)
_WIDTH: Final = 14


def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in one JSON document.")] = False,
) -> None:
    """Check settings, Redis, the store, the model, the workers and the queues.

    Exits with 1 if something fails; a warning is no failure.
    """
    console = Console(soft_wrap=True)
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            _print(finding, console)
    if as_json:
        typer.echo(json.dumps(_document(findings)))
    if _worst(findings) is Level.FAIL:
        raise typer.Exit(1)


def _print(finding: Finding, console: Console) -> None:
    line = Text.assemble(
        (f"{finding.level.value:5}", _COLORS[finding.level]),
        f"{finding.subject:{_WIDTH}}  {finding.text}",
    )
    console.print(line)
    if finding.advice:
        console.print(Text(f"{'':5}{'':{_WIDTH}}  → {finding.advice}"))


def _document(findings: list[Finding]) -> dict[str, object]:
    return {
        "level": _worst(findings).value,
        "findings": [asdict(finding) for finding in findings],
    }


def _worst(findings: list[Finding]) -> Level:
    levels = list(Level)
    return max((finding.level for finding in findings), key=levels.index)
