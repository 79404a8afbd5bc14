"""The dashboards that Grafana is provisioned with, read from their JSON files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.paths import ROOT

FOLDER: Final = ROOT / "deploy" / "grafana" / "dashboards"
#: Metrics that no worker exports on a machine without a GPU.
_GPU_PREFIX: Final = "rmbg_gpu_"


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression, and the name of its series (`{{label}}` stands for a label)."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph of a dashboard; `unit` is Grafana's name of the unit."""

    title: str
    unit: str
    queries: tuple[Query, ...]

    @property
    def needs_gpu(self) -> bool:
        """Whether the panel stays empty on a machine without a GPU."""
        return all(query.expr.startswith(_GPU_PREFIX) for query in self.queries)


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page of panels."""

    uid: str
    title: str
    panels: tuple[Panel, ...]


def dashboards() -> tuple[Dashboard, ...]:
    """Read all dashboards, in the order of their file names."""
    return tuple(_read(path) for path in sorted(FOLDER.glob("*.json")))


def _read(path: Path) -> Dashboard:
    page = json.loads(path.read_text())
    return Dashboard(page["uid"], page["title"], tuple(_panel(each) for each in page["panels"]))


def _panel(panel: dict[str, Any]) -> Panel:
    queries = [Query(each["expr"], each["legendFormat"]) for each in panel["targets"]]
    return Panel(panel["title"], panel["fieldConfig"]["defaults"]["unit"], tuple(queries))
