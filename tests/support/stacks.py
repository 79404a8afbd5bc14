"""Plans of `rmbg up` that are looked at and not started."""

from pathlib import Path
from typing import Any

from api.settings import ApiSettings
from deploy.local.ports import reserved_ports
from deploy.local.stack import Ports, Stack, UpOptions, plan_stack


def planned(given: ApiSettings, folder: Path, **options: Any) -> Stack:  # noqa: ANN401
    """What `rmbg up` would start with these settings and options, on any ports."""
    chosen = UpOptions(**{"port": 0, "flower_port": None, **options})
    with reserved_ports() as free:
        return plan_stack(chosen, given, folder, Ports.choose(chosen, free))
