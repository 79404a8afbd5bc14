"""Nobody is kept out of the page: axe finds no barrier in either theme, and targets are large."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.browser import AXE, PHONE, barriers, small_targets, visiting
from tests.support.service import RunningService

#: Whether the header covers the panel's title where the page ends.
_COVERED = """() => {
  scrollTo(0, document.documentElement.scrollHeight);
  const [bar, title] = [".bar", "#look-title"].map(
    (each) => document.querySelector(each).getBoundingClientRect());
  return title.top < bar.bottom;
}"""
#: What is cut off at the right.
_CUT_OFF = """() => [...document.querySelectorAll("body *")]
  .filter((each) => each.checkVisibility({ visibilityProperty: true, opacityProperty: true }))
  .filter((each) => !each.closest(".hidden-text"))
  .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
  .map((each) => each.outerHTML.slice(0, 80))"""
_HELP = "(input) => document.getElementById(input.getAttribute('aria-describedby')).textContent"


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed: make clients")
def test_axe_finds_no_barrier(
    browser: Browser, service: RunningService, coffee: Path, garbled: Path
) -> None:
    with visiting(browser, service.url) as visit:
        page = visit.open()
        assert barriers(page) == []
        visit.drop(coffee, garbled)
        card = visit.card(coffee.name, "done")
        visit.card(garbled.name, "failed")
        page.locator("summary").click()
        assert page.evaluate(_COVERED) is False
        assert page.locator("#param-mask_threshold").evaluate(_HELP).startswith("Makes")
        assert barriers(page) == []
        card.get_by_role("button", name="Touch up").click()
        page.wait_for_selector("#viewer[data-ready]")
        assert barriers(page) == []


def test_on_a_phone_everything_fits_and_can_be_hit(
    browser: Browser, service: RunningService, coffee: Path
) -> None:
    with visiting(browser, service.url, **PHONE) as visit:
        page = visit.open()
        assert small_targets(visit) == []
        assert not {"Drop", "paste"} & set(page.locator("main").inner_text().split())
        visit.drop(coffee)
        card = visit.card(coffee.name, "done")
        page.locator("#open-look").tap()
        page.locator(".look-shown").wait_for()
        assert small_targets(visit) == []
        page.go_back()
        page.locator("body:not(.look-shown)").wait_for()
        card.get_by_role("button", name="Touch up").tap()
        page.wait_for_selector("#viewer[data-ready]")
        assert small_targets(visit) == []
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        # And with text of twice the size: large, the look, the list, and without photos.
        page.evaluate("document.documentElement.style.fontSize = '200%'")
        assert page.evaluate(_CUT_OFF) == []
        page.go_back()
        page.locator("#open-look").tap()
        page.locator(".look-shown").wait_for()
        assert page.evaluate(_CUT_OFF) == []
        page.locator("#clear").tap()
        page.locator("body.empty").wait_for()
        assert page.evaluate(_CUT_OFF) == []
