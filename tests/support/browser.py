"""A browser on the service's pages, which notes whatever a page does that it must not."""

import base64
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Download, Locator, Page, sync_playwright

from tests.support.paths import ROOT

AXE = ROOT / "tests" / "clients" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
#: Shortest side of what a finger has to hit, in CSS pixels.
TARGET = 44
#: Those of the pages; the last one is left set.
THEMES: tuple[Literal["dark", "light"], ...] = ("dark", "light")
#: What Chromium itself writes of every answer that is no success; the page shows those in words.
_OF_ANSWERS = "Failed to load resource"
#: A window of a phone.
PHONE: Final = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
#: Longest that a page may take for anything; a hang guard.
_PATIENCE_MS = 60_000

_DROP = """files => {
  const data = new DataTransfer();
  for (const [name, text] of files)
    data.items.add(new File([Uint8Array.from(atob(text), (each) => each.charCodeAt(0))], name));
  document.body.dispatchEvent(
    new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium; without it the test is skipped, or fails if REQUIRE_CHROMIUM is set."""
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("REQUIRE_CHROMIUM"):
            pytest.fail("Chromium is required, and not installed: apt-get install chromium")
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """One browser window on one service, with its own storage."""

    context: BrowserContext
    url: str
    page: Page = field(init=False)
    faults: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.set_default_timeout(_PATIENCE_MS)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        # From the start: the browser learns of a listener only a little later.
        self.page.on("filechooser", lambda _: None)
        self.page.on("request", lambda request: self.requested.append(request.url))

    def _note(self, kind: str, text: str) -> None:
        # Violations of the Content-Security-Policy are errors of the console.
        if kind == "error" and not text.startswith(_OF_ANSWERS):
            self.faults.append(text)

    def open(self, path: str = "/") -> Page:
        self.page.goto(f"{self.url}{path}")
        self.page.wait_for_selector("html[data-ready]")
        return self.page

    def drop(self, *photos: Path) -> None:
        """Drop files on the page."""
        files = [[each.name, base64.b64encode(each.read_bytes()).decode()] for each in photos]
        self.page.evaluate(_DROP, files)

    def card(self, name: str, state: str = "") -> Locator:
        """Wait until the card of a file is in a state, and return it."""
        card = self.page.locator(".card", has=self.page.locator(".name", has_text=name))
        if state:
            self.page.locator(f'.card[data-state="{state}"]', has_text=name).first.wait_for()
        return card

    def settle(self) -> None:
        """Wait until the page has painted what it was told."""
        paint = (
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        self.page.evaluate(paint)

    def download(self, button: Locator) -> Download:
        with self.page.expect_download() as found:
            button.click()
        return found.value

    def saved(self, button: Locator) -> Path:
        return Path(self.download(button).path())

    def drag(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """Draw a line with the mouse."""
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(to_x, to_y, steps=8)
        self.page.mouse.up()

    def use_key(self, key: str) -> None:
        """Enter an API key where the page asks for one."""
        self.page.locator("#key").fill(key)
        self.page.keyboard.press("Enter")

    def stage(self) -> tuple[float, float, float, float]:
        """Wait for the large view; the middle of its picture, its width and its height."""
        self.page.wait_for_selector("#viewer[data-ready]")
        box = self.page.locator(".stage canvas").bounding_box()
        assert box is not None
        width, height = box["width"], box["height"]
        return box["x"] + width / 2, box["y"] + height / 2, width, height

    def check(self) -> None:
        """Fail if the page made an error, broke its policy, or called another host."""
        assert self.faults == []
        own = urlsplit(self.url).netloc
        others = [each for each in self.requested if urlsplit(each).netloc not in {own, ""}]
        assert others == []


@contextmanager
def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:  # noqa: ANN401 - of a context
    """A visit that is checked at its end."""
    with browser.new_context(
        **{"locale": "en-US", "reduced_motion": "reduce", **options}
    ) as context:
        visit = Visit(context, url)
        yield visit
        visit.check()


def barriers(page: Page) -> list[str]:
    """What axe objects to in the page as it is now, in either theme."""
    page.evaluate(AXE.read_text())
    found = []
    for scheme in THEMES:
        page.emulate_media(color_scheme=scheme)
        found += [(scheme, each) for each in page.evaluate("() => axe.run()")["violations"]]
    return [
        f"{scheme} {each['id']}: {[n['html'] for n in each['nodes']]}" for scheme, each in found
    ]


def small_targets(visit: Visit) -> list[str]:
    """The buttons, links and choices that are too small for a finger."""
    found: list[str] = visit.page.evaluate(
        """least => [...document.querySelectorAll("button, a, select, label.check, .swatch")]
          .filter((each) => each.checkVisibility({ visibilityProperty: true }))
          .filter((each) => !each.matches(".skip"))
          .map((each) => [each, each.getBoundingClientRect()])
          .filter(([, { width, height }]) => Math.min(width, height) < least)
          .map(([each, { width, height }]) =>
            `${each.outerHTML.slice(0, 80)} ${width}x${height}`)""",
        TARGET,
    )
    return found


def pixels(data: bytes | Path, mode: str = "RGBA") -> NDArray[np.int16]:
    """A picture's pixels, signed, so that differences can be taken."""
    source = data if isinstance(data, Path) else io.BytesIO(data)
    with Image.open(source) as image:
        return np.asarray(image.convert(mode)).astype(np.int16)


def far_off(one: NDArray[np.int16], other: NDArray[np.int16], levels: int = 4) -> float:
    """The share of pixels that differ by more than some levels."""
    return float((np.abs(one - other).max(axis=-1) > levels).mean())
