"""Draw the dashboards' panels from a real `rmbg up`, a real Prometheus and twenty mixed jobs.

pip install -e '.[docs]'
python docs/pictures/dashboards.py
"""

import sys
import tempfile
import time
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from deploy.bench.processes import running_stack
from deploy.client import ServiceClient
from deploy.local.data_folder import TARGETS_FILE
from tests.support.grafana import Dashboard, Panel, dashboards
from tests.support.prometheus import Prometheus, running_prometheus

HERE = Path(__file__).parent
PHOTOS = sorted((HERE.parents[1] / "tests" / "data").glob("*.jpg"))
FORMATS: tuple[dict[str, str], ...] = (
    {},
    {"output_format": "webp"},
    {"output_format": "jpg", "matte_color": "white"},
)
JOBS = 20
#: Prometheus needs a few scrapes before the first job and after the last.
QUIET_SECONDS = 15
_UNITS = {"s": "seconds", "reqps": "per second", "ops": "per second", "percentunit": "share"}


def work(url: str) -> None:
    """Submit twenty jobs to the service at `url`, two at a time, and wait for all of them."""
    with ServiceClient(url) as client:
        ids: list[str] = []
        for number in range(JOBS):
            ids.append(client.submit(PHOTOS[number % len(PHOTOS)], FORMATS[number % len(FORMATS)]))
            if len(ids) > 1:
                client.wait(ids[-2])
        for task_id in ids:
            client.wait(task_id)


def draw(dashboard: Dashboard, server: Prometheus, start: float, end: float, path: Path) -> None:
    """Draw all panels of a dashboard, from `start` to `end` (unix seconds), as one picture."""
    panels = [panel for panel in dashboard.panels if not panel.needs_gpu]
    rows = (len(panels) + 1) // 2
    figure, axes = plt.subplots(rows, 2, figsize=(12, 2.6 * rows), layout="constrained")
    for axis, panel in zip(axes.flat, panels, strict=False):
        draw_panel(axis, panel, server, start, end)
    for axis in list(axes.flat)[len(panels) :]:
        axis.axis("off")
    figure.suptitle(dashboard.title)
    figure.savefig(path, dpi=80)


def draw_panel(axis: plt.Axes, panel: Panel, server: Prometheus, start: float, end: float) -> None:
    """Draw the queries of one panel as lines."""
    for query in panel.queries:
        series = server.query_range(query.expr, start=start, end=end)
        if not series:
            sys.exit(f"no data for {panel.title}: {query.expr}")
        for each in series:
            times = [at - start for at, _ in each["values"]]
            name = query.legend
            for label, value in each["metric"].items():
                name = name.replace("{{" + label + "}}", value)
            axis.plot(times, [float(value) for _, value in each["values"]], label=name)
    axis.set_title(panel.title, fontsize=10)
    axis.set_ylabel(_UNITS.get(panel.unit, ""), fontsize=8)
    axis.set_ylim(bottom=0)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=6, loc="upper left")


def main() -> None:
    """Run the service and Prometheus, submit the jobs, and write the pictures beside this file."""
    mpl.use("Agg")
    with (
        tempfile.TemporaryDirectory() as name,
        running_stack(Path(name)) as program,
        running_prometheus(
            Path(name) / "prometheus", Path(name) / "data" / TARGETS_FILE, delay="1m"
        ) as server,
    ):
        start = time.time()
        time.sleep(QUIET_SECONDS)
        work(program.url)
        time.sleep(QUIET_SECONDS)
        for dashboard in dashboards():
            draw(dashboard, server, start, time.time(), HERE / f"{dashboard.uid}.png")


if __name__ == "__main__":
    main()
