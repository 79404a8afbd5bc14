"""A real Prometheus for the length of a `with` block, for tests and the pictures of the docs."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3

from deploy.local import probes
from deploy.local.errors import SetupError
from deploy.local.ports import LOOPBACK, reserved_ports
from deploy.local.running import running
from deploy.local.services import Service

RULES: Final = Path(__file__).parents[1] / "prometheus" / "rules" / "rmbg.yml"
_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server."""

    url: str

    def query(self, expr: str, *, window: str = "30s") -> list[dict[str, Any]]:
        """The present samples of an expression; Grafana's range variable becomes `window`."""
        answer = self._get("query", query=expr.replace("$__rate_interval", window))
        return list(answer["result"])

    def query_range(
        self, expr: str, *, start: float, end: float, step: float = 1.0, window: str = "30s"
    ) -> list[dict[str, Any]]:
        """The series of an expression between two unix times."""
        text = expr.replace("$__rate_interval", window)
        answer = self._get("query_range", query=text, start=start, end=end, step=step)
        return list(answer["result"])

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        found = self.query('ALERTS{alertstate="firing"}')
        return {each["metric"]["alertname"] for each in found}

    def _get(self, what: str, **fields: str | float) -> dict[str, Any]:
        url = f"{self.url}/api/v1/{what}"
        answer = urllib3.request(
            "GET",
            url,
            fields={name: str(value) for name, value in fields.items()},
            timeout=_SECONDS,
        ).json()
        if answer["status"] != "success":
            raise SetupError(f"Prometheus refuses {fields['query']}: {answer['error']}")
        return dict(answer["data"])


def prometheus_server() -> str | None:
    """Path of the server, if it is installed (Debian: `apt install prometheus`)."""
    return shutil.which("prometheus")


@contextmanager
def running_prometheus(folder: Path, targets: Path, *, patience: str) -> Iterator[Prometheus]:
    """Scrape every second what a target file names, under the project's own rules.

    Args:
        folder: for its data and its log.
        targets: as `rmbg up` writes it.
        patience: what takes the place of each rule's `for`.

    Raises:
        SetupError: it is not installed.
    """
    server = prometheus_server()
    if server is None:
        raise SetupError("The program prometheus is missing; on Debian: apt install prometheus")
    folder.mkdir(parents=True, exist_ok=True)
    rules = re.sub(r"(?m)^( +for:) .*$", rf"\1 {patience}", RULES.read_text())
    (folder / "rules.yml").write_text(rules)
    (folder / "prometheus.yml").write_text(_config(targets))
    with reserved_ports() as ports:
        url = f"http://{LOOPBACK}:{ports[0]}"
        service = Service(
            "prometheus",
            (
                server,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={LOOPBACK}:{ports[0]}",
            ),
            folder=folder,
            probe=probes.http_ok(f"{url}/-/ready"),
        )
        with running(service, folder / "prometheus.log"):
            yield Prometheus(url)


def _config(targets: Path) -> str:
    return f"""\
global:
  scrape_interval: 1s
  evaluation_interval: 1s
rule_files: [rules.yml]
scrape_configs:
  - job_name: rmbg
    file_sd_configs:
      - files: ["{targets}"]
        refresh_interval: 1s
"""
