"""What a panel and a dashboard are, and how Grafana wants them written down."""

import json
from dataclasses import dataclass
from typing import Any, Final

_WIDTH: Final = 12
_HEIGHT: Final = 8
_COLUMNS: Final = 2
_DATASOURCE: Final = {"type": "prometheus", "uid": "${source}"}


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression, and how its series are named (`{{label}}` is replaced)."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph.

    Attributes:
        title: what it shows.
        queries: its lines.
        unit: Grafana's name of the unit.
        text: what to make of it.
        gpu: it shows nothing where there is no GPU.
    """

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    text: str = ""
    gpu: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page of panels."""

    uid: str
    title: str
    panels: tuple[Panel, ...]


def to_json(dashboard: Dashboard) -> str:
    """A dashboard as a file that Grafana is provisioned with."""
    page = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["rmbg"],
        "editable": True,
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_source()]},
        "links": [_links()],
        "panels": [_panel(number, each) for number, each in enumerate(dashboard.panels)],
    }
    return json.dumps(page, indent=2) + "\n"


def _source() -> dict[str, Any]:
    return {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _links() -> dict[str, Any]:
    return {
        "type": "dashboards",
        "tags": ["rmbg"],
        "title": "rmbg",
        "keepTime": True,
        "asDropdown": False,
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": _DATASOURCE,
        "gridPos": {
            "x": number % _COLUMNS * _WIDTH,
            "y": number // _COLUMNS * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
            }
            for index, query in enumerate(panel.queries)
        ],
    }
