"""A real Prometheus for the length of a `with` block, for tests and the docs' pictures."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3

from deploy.local import probes
from deploy.local.ports import LOOPBACK, reserved_ports
from deploy.local.service import Service, SetupError
from tests.support.paths import ROOT
from tests.support.servers import running

RULES: Final = ROOT / "deploy" / "prometheus" / "rules" / "rmbg.yml"
_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Prometheus:
    """The HTTP API of a running Prometheus."""

    url: str

    def query(self, expr: str, *, window: str = "30s") -> list[dict[str, Any]]:
        """Return an expression's samples now; Grafana's range variable becomes `window`."""
        answer = self._get("query", query=expr.replace("$__rate_interval", window))
        return list(answer["result"])

    def query_range(
        self, expr: str, *, start: float, end: float, step: float = 1.0, window: str = "30s"
    ) -> list[dict[str, Any]]:
        """Return an expression's series between two unix times."""
        text = expr.replace("$__rate_interval", window)
        answer = self._get("query_range", query=text, start=start, end=end, step=step)
        return list(answer["result"])

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        found = self.query('ALERTS{alertstate="firing"}')
        return {each["metric"]["alertname"] for each in found}

    def _get(self, endpoint: str, **fields: str | float) -> dict[str, Any]:
        url = f"{self.url}/api/v1/{endpoint}"
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
    """Return the path of the server, if it is installed (Debian: `apt install prometheus`)."""
    return shutil.which("prometheus")


@contextmanager
def running_prometheus(folder: Path, targets: Path, *, delay: str) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the targets of a file every second, with the project's rules.

    Args:
        folder: holds its data and its log.
        targets: a file of `file_sd_configs`, such as `rmbg up` writes.
        delay: replaces the `for` of each rule, such as `2s`.

    Raises:
        SetupError: it is not installed.
    """
    server = prometheus_server()
    if server is None:
        raise SetupError("The program prometheus is missing; on Debian: apt install prometheus")
    folder.mkdir(parents=True, exist_ok=True)
    rules = re.sub(r"(?m)^( +for:) .*$", rf"\1 {delay}", RULES.read_text())
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
