"""Nobody is kept out of the page: axe finds no barrier in either theme, and targets are large."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import Visit, chromium, visiting
from tests.support.paths import ROOT
from tests.support.service import RunningService

AXE = ROOT / "tests" / "clients" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
#: Shortest side of what a finger has to hit, in CSS pixels.
TARGET = 44


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def _barriers(page: Page) -> list[str]:
    """What axe objects to in the page as it is now."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("() => axe.run()")["violations"]
    return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in found]


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed: make clients")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(
    browser: Browser, service: RunningService, coffee: Path, garbled: Path, scheme: str
) -> None:
    with visiting(browser, service.url, color_scheme=scheme) as visit:
        page = visit.open()
        assert _barriers(page) == []
        visit.drop(coffee, garbled)
        card = visit.card(coffee.name, "done")
        visit.card(garbled.name, "failed")
        page.locator("summary").click()
        assert _barriers(page) == []
        card.get_by_role("button", name="Touch up").click()
        page.wait_for_selector("#viewer[data-ready]")
        assert _barriers(page) == []


def test_on_a_phone_everything_fits_and_can_be_hit(
    browser: Browser, service: RunningService, coffee: Path
) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with visiting(browser, service.url, **phone) as visit:
        page = visit.open()
        assert _small(visit) == []
        visit.drop(coffee)
        card = visit.card(coffee.name, "done")
        page.locator("#open-look").tap()
        page.locator(".look-shown").wait_for()
        assert _small(visit) == []
        page.locator("#close-look").tap()
        card.get_by_role("button", name="Touch up").tap()
        page.wait_for_selector("#viewer[data-ready]")
        assert _small(visit) == []
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def _small(visit: Visit) -> list[str]:
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
