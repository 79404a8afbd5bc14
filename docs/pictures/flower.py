"""Save a screenshot of Flower's task list by headless Chromium: python docs/pictures/flower.py."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deploy.client import ServiceClient
from deploy.local import service

HERE = Path(__file__).parent
PHOTOS = sorted((HERE.parents[1] / "tests" / "data").glob("*.jpg"))
JOBS = 6
_START_SECONDS = 180


def photograph(url: str, target: Path) -> None:
    """Open `url`, let its scripts run, and save a screenshot as `target`."""
    browser = shutil.which("chromium") or sys.exit("apt install chromium")
    with tempfile.TemporaryDirectory() as profile:
        command = (
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            "--window-size=1500,620",
            "--virtual-time-budget=10000",
            f"--screenshot={target}",
            url,
        )
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def main() -> None:
    """Run the service, submit some jobs, and take the screenshot."""
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        options = ("--port", "0", "--flower-port", "0", "--data", str(data))
        up = subprocess.Popen([service.script("rmbg"), "up", *options], stdout=subprocess.DEVNULL)
        try:
            end = time.monotonic() + _START_SECONDS
            while not (data / "run.json").exists():
                if up.poll() is not None or time.monotonic() > end:
                    sys.exit("rmbg up did not start")
                time.sleep(0.2)
            facts = json.loads((data / "run.json").read_text())
            with ServiceClient(facts["api_url"]) as client:
                for number in range(JOBS):
                    client.cut_out(PHOTOS[number % len(PHOTOS)], {"cache": "false"})
            photograph(f"{facts['flower_url']}/tasks", HERE / "flower.png")
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait()


if __name__ == "__main__":
    main()
