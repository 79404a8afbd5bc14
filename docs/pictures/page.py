"""Save pictures of the pages / and /ops by headless Chromium: python docs/pictures/page.py."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from deploy.local import service

HERE = Path(__file__).parent
PHOTOS = sorted((HERE.parents[1] / "tests" / "data").glob("*.jpg"))
_START_SECONDS = 180
_WIDE, _PHONE = (1280, 900), (390, 844)


@contextmanager
def service_running() -> Iterator[str]:
    """Run the service on free ports, and give its address."""
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        command = (service.script("rmbg"), "up", "--no-flower", "--port", "0", "--data", str(data))
        up = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            end = time.monotonic() + _START_SECONDS
            while not (data / "run.json").exists():
                if up.poll() is not None or time.monotonic() > end:
                    sys.exit("rmbg up did not start")
                time.sleep(0.2)
            yield json.loads((data / "run.json").read_text())["api_url"]
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait()


@contextmanager
def photos_dropped(
    browser: Browser, url: str, size: tuple[int, int], scheme: Literal["light", "dark"]
) -> Iterator[Page]:
    """Open the page with all sample photos cut out."""
    viewport = {"width": size[0], "height": size[1]}
    page = browser.new_page(viewport=viewport, color_scheme=scheme)
    page.goto(url)
    page.set_input_files("#files", PHOTOS)
    for photo in PHOTOS:
        page.locator(".card", has_text=photo.name).get_by_role("button", name="Download").wait_for()
    page.wait_for_function("document.querySelectorAll('.card canvas').length >= 3")
    page.wait_for_timeout(1000)
    yield page
    page.close()


def save(page: Page, name: str) -> None:
    """Save what is seen as WebP."""
    Image.open(BytesIO(page.screenshot())).save(HERE / f"page-{name}.webp", quality=85, method=6)


def main() -> None:
    """Take the pictures."""
    path = shutil.which("chromium") or sys.exit("apt install chromium")
    with service_running() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        with photos_dropped(browser, url, _WIDE, "light") as page:
            page.locator(".card", has_text="coffee.jpg").locator("input[type=range]").fill("45")
            page.locator("#background-blur").check()
            page.wait_for_timeout(1000)
            save(page, "result")
        with photos_dropped(browser, url, _WIDE, "dark") as page:
            card = page.locator(".card", has_text="coffee.jpg")
            card.get_by_role("button", name="Touch up").click()
            page.wait_for_selector("#viewer[data-ready]")
            page.wait_for_timeout(500)
            save(page, "touch-up")
        with photos_dropped(browser, url, _PHONE, "light") as page:
            save(page, "phone")
        page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
        page.goto(f"{url}/ops")
        page.get_by_text("gpu0@", exact=False).first.wait_for()
        page.wait_for_timeout(1000)
        save(page, "ops")
        browser.close()


if __name__ == "__main__":
    main()
