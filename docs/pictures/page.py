"""Save pictures of the pages / and /ops: python docs/pictures/page.py [FOLDER].

By headless Chromium. Without a folder it saves those that the documentation shows; with one, every
view, there.
"""

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
from itertools import product
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from deploy.local import service

HERE = Path(__file__).parent
PHOTOS = sorted((HERE.parents[1] / "tests" / "data").glob("*.jpg"))
_START_SECONDS = 180
_SCHEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")
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
def opened(
    browser: Browser,
    url: str,
    size: tuple[int, int] = _WIDE,
    scheme: Literal["light", "dark"] = "light",
    locale: str = "en-US",
) -> Iterator[Page]:
    """Open a page, and close it afterwards."""
    viewport: ViewportSize = {"width": size[0], "height": size[1]}
    page = browser.new_page(viewport=viewport, color_scheme=scheme, locale=locale)
    page.goto(url)
    yield page
    page.close()


def drop_photos(page: Page) -> None:
    """Have all sample photos cut out, one after the other: each gets the machine for itself."""
    for photo in PHOTOS:
        page.set_input_files("#files", photo)
        page.locator(f'.card[data-state="done"].shown:has(h2[title="{photo.name}"])').wait_for()
    # The last one sweeps from the photo to the cutout for 0.7 s.
    page.wait_for_timeout(1500)


def show_result(page: Page) -> None:
    """Blur the backgrounds, and show one photo half before and half after."""
    page.locator(".card", has_text="coffee.jpg").locator("input[type=range]").fill("45")
    page.locator("#background-blur").evaluate("each => each.click()")
    page.wait_for_timeout(1000)


def show_touch_up(page: Page) -> None:
    """Open one photo under the brush."""
    page.locator(".card", has_text="coffee.jpg").locator(".acts button").nth(-3).click()
    page.locator("#viewer[data-ready]").wait_for()
    page.wait_for_timeout(500)


def show_ops(page: Page) -> None:
    """Wait for the workers of /ops."""
    page.get_by_text("gpu0@", exact=False).first.wait_for()
    page.wait_for_timeout(1000)


def save(page: Page, file: Path) -> None:
    """Save what is seen as WebP."""
    Image.open(BytesIO(page.screenshot())).save(file, quality=85, method=6)


def take_for_docs(browser: Browser, url: str) -> None:
    """Take the pictures of the documentation."""
    with opened(browser, url) as page:
        drop_photos(page)
        show_result(page)
        save(page, HERE / "page-result.webp")
    with opened(browser, url, scheme="dark") as page:
        drop_photos(page)
        show_touch_up(page)
        save(page, HERE / "page-touch-up.webp")
    with opened(browser, url, _PHONE) as page:
        drop_photos(page)
        save(page, HERE / "page-phone.webp")
    with opened(browser, f"{url}/ops") as page:
        show_ops(page)
        save(page, HERE / "page-ops.webp")


def take_all(browser: Browser, url: str, folder: Path) -> None:
    """Take every view in both themes and at both widths, and one in Chinese."""
    for scheme, (width, size) in product(
        ("light", "dark"), {"wide": _WIDE, "phone": _PHONE}.items()
    ):
        name = f"{scheme}-{width}.webp"
        with opened(browser, url, size, scheme) as page:
            page.wait_for_timeout(500)
            save(page, folder / f"empty-{name}")
            drop_photos(page)
            show_result(page)
            save(page, folder / f"result-{name}")
            show_touch_up(page)
            save(page, folder / f"touch-up-{name}")
        with opened(browser, f"{url}/ops", size, scheme) as page:
            show_ops(page)
            save(page, folder / f"ops-{name}")
    with opened(browser, url, locale="zh-CN") as page:
        drop_photos(page)
        save(page, folder / "chinese.webp")


def main() -> None:
    """Take the pictures."""
    path = shutil.which("chromium") or sys.exit("apt install chromium")
    with service_running() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        if len(sys.argv) > 1:
            take_all(browser, url, Path(sys.argv[1]))
        else:
            take_for_docs(browser, url)
        browser.close()


if __name__ == "__main__":
    main()
