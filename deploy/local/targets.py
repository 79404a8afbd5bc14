"""A file that tells Prometheus where to scrape: one for its `file_sd_configs`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from deploy.local.services import Service

#: In the data folder.
TARGETS_FILE: Final = "prometheus-targets.json"


def targets(services: Iterable[Service]) -> list[dict[str, Any]]:
    """The target groups of those that serve metrics, each labelled with its service's name."""
    return [
        {"targets": [service.metrics], "labels": {"service": service.name}}
        for service in services
        if service.metrics
    ]


def write_targets(folder: Path, services: Iterable[Service]) -> None:
    """Write them, whole or not at all: Prometheus reads the file whenever it changes."""
    draft = folder / f".{TARGETS_FILE}.draft"
    draft.write_text(json.dumps(targets(services), indent=2))
    draft.replace(folder / TARGETS_FILE)
