"""The page at `/` in a real browser: photos go in, cutouts come out, and nothing is lost."""

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Route

from inference.presets import PRESETS, Preset
from tasks.jobs.job import Status
from tasks.runtime import Runtime
from tests.support.browser import Visit, far_off, pixels, visiting
from tests.support.commands import WORKER
from tests.support.pictures import exif_orientation
from tests.support.service import RunningApi, RunningService, eventually, settings_of
from tests.support.websites import website
from tests.support.workers import lasting_registry

_CORNER = """(canvas) => [...canvas.getContext("2d").getImageData(0, 0, 1, 1).data]"""
#: Notes the width of each picture that is drawn from now on.
_NOTE_DRAWN = """() => {
  window.drawn = [];
  const { drawImage } = CanvasRenderingContext2D.prototype;
  CanvasRenderingContext2D.prototype.drawImage = function (picture, ...place) {
    drawn.push(picture.width);
    return drawImage.call(this, picture, ...place);
  };
}"""
_IS_DRAWN = """(canvas) => canvas.getContext("2d")
    .getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[3] === 255"""

_KEPT_FIELDS = """() => new Promise((done) => {
    indexedDB.open("rmbg").onsuccess = ({ target }) => {
      const all = target.result.transaction("photos").objectStore("photos").getAll();
      all.onsuccess = () => done(all.result.flatMap(Object.keys));
    };
})"""


#: As with all cookies blocked.
_KEEPS_NOTHING = """
  const refuse = () => { throw new DOMException("denied", "SecurityError"); };
  for (const name of ["localStorage", "sessionStorage", "indexedDB"])
    Object.defineProperty(window, name, { get: refuse });
  for (const name of ["query", "request"]) LockManager.prototype[name] = async () => refuse();
"""


def _refuse(route: Route) -> None:
    error = {"type": "storage_quota_exceeded"}
    route.fulfill(status=403, json={"message": "No room.", "error": error})


@pytest.fixture
def visit(browser: Browser, service: RunningService) -> Iterator[Visit]:
    with visiting(browser, service.url) as visit:
        yield visit


@pytest.fixture
def waiting(browser: Browser, lone_api: RunningApi) -> Iterator[Visit]:
    """A visit of a service whose photos wait, since it has no worker."""
    with visiting(browser, lone_api.url) as visit:
        yield visit


def test_photos_are_dropped_compared_touched_up_and_downloaded(
    visit: Visit, service: RunningService, photos: list[Path], garbled: Path
) -> None:
    page = visit.open()
    chosen = [each for each in photos if each.stem != "astronaut"]
    visit.drop(*chosen, garbled)
    for photo in chosen:
        visit.card(photo.name, "done")
    failed = visit.card(garbled.name, "failed")
    assert "damaged" in failed.locator(".state").inner_text()
    page.locator("#sum", has_text="2 of 3 done, 1 failed").wait_for()

    coffee = visit.card("coffee.jpg")
    page.wait_for_function(_IS_DRAWN, arg=coffee.locator(".after").element_handle())
    assert coffee.locator('p[title="u2netp"]:has-text("Cut out ")').is_visible()
    split = coffee.locator("input[type=range]")
    after = coffee.locator(".frame").screenshot()
    split.focus()
    page.keyboard.press("End")
    visit.settle()
    assert coffee.locator(".frame").screenshot() != after
    page.keyboard.press("Home")

    download = coffee.get_by_role("button", name="Download")
    plain = visit.download(download)
    assert plain.suggested_filename == "coffee.png"
    assert (pixels(Path(plain.path()))[..., 3] == 0).mean() > 0.1
    page.locator("#background-color").check()
    page.locator("#color").fill("#2060a0")
    coloured = visit.saved(download)
    served = service.client.cut_out(chosen[1], {"matte_color": "#2060a0"})
    assert far_off(pixels(coloured), pixels(served)) < 0.001

    coffee.get_by_role("button", name="Touch up").click()
    x, y, *_ = visit.stage()
    page.locator("#brush-softness").fill("0")
    visit.drag(x - 40, y, x + 40, y)
    page.get_by_role("button", name="Close").click()
    brushed = pixels(visit.saved(download))
    rows, columns = brushed.shape[:2]
    assert tuple(brushed[rows // 2, columns // 2]) == (0x20, 0x60, 0xA0, 255)
    assert 0.001 < far_off(brushed, pixels(coloured)) < 0.2

    archive = zipfile.ZipFile(visit.saved(page.locator("#download-all")))
    assert archive.testzip() is None
    assert sorted(archive.namelist()) == ["chelsea.png", "coffee.png"]
    assert far_off(pixels(archive.read("coffee.png")), brushed) == 0

    # After a reload the cutouts are there again, with what was brushed.
    visit.open()
    again = visit.card("coffee.jpg", "done")
    page.wait_for_selector(".card.shown .after")
    kept = visit.saved(again.get_by_role("button", name="Download"))
    assert far_off(pixels(kept), brushed) == 0


def test_folders_of_photos_finish_by_few_requests_and_keep_their_names(
    visit: Visit, coffee: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / "shop" / name for name in ("front", "side")]
    names = [*(f"photo {number:02}.jpg" for number in range(9)), "photo 09.jfif"]
    with Image.open(coffee) as image:
        # Few kinds of pictures, so that the model has little to do, and the page has much at once.
        for number, name in enumerate(names):
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                image.resize((96, 64 + number % 3)).save(folder / name)
    page = visit.open()
    before = len(visit.requested)
    visit.drop(folders[0] / names[0])
    # All ways of adding are there once there are photos, too.
    page.get_by_role("button", name="Add photos").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a folder").click()
    chooser.value.set_files(tmp_path / "shop")
    page.get_by_text("21 of 21 done").wait_for()
    asked = [each for each in visit.requested[before:] if "/api/" in each]
    assert len(asked) <= 3 * 21, "one to send, one to fetch, and few streams for all"

    shown = page.locator(".name").all_text_contents()
    assert len(set(shown)) == 21, "names that are equal are told apart by folder or number"
    assert "shop/side/photo 07.jpg" in shown
    assert names[0] in shown, "the only one without a folder needs no number"
    archive = zipfile.ZipFile(visit.saved(page.locator("#download-all")))
    assert {f"shop/{each.name}/photo 03.png" for each in folders} < set(archive.namelist())

    # Far from what is seen there are no pictures in memory, and none among what is kept.
    last = page.locator(".card").last
    assert last.locator(".after").evaluate("(canvas) => canvas.width") == 0
    last.scroll_into_view_if_needed()
    page.locator(".card.shown").last.locator("xpath=self::*[not(following-sibling::*)]").wait_for()
    assert not {"small", "cut", "cutBase"} & set(page.evaluate(_KEPT_FIELDS))

    # Large, they follow one another in the list's order, whether their cards have pictures or not.
    title, split = page.locator("#viewer-name"), page.locator(".viewer-split")
    last.get_by_role("button", name="Open large").click()
    assert page.get_by_role("button", name="Next photo").is_disabled()
    page.keyboard.press("ArrowLeft")
    assert title.text_content() == shown[-2]
    page.keyboard.press("PageUp")
    page.get_by_role("button", name="Previous photo").click()
    assert title.text_content() == shown[-4]
    x, y, _, height = visit.stage()
    assert split.get_attribute("aria-valuetext") == "Before 0 %"
    visit.drag(x - (height - 24) * 96 / 65 / 2 + 8, y, x, y)
    half = float(split.input_value())
    assert abs(half - 50) < 3, "the divider at the picture's left is drawn along"
    # The slider has these keys for itself.
    split.press("ArrowLeft")
    assert float(split.input_value()) < half
    assert title.text_content() == shown[-4]
    saved = visit.download(page.locator("#viewer").get_by_role("button", name="Download"))
    assert saved.suggested_filename == shown[-4].split("/")[-1].replace(".jpg", ".png")
    # A reload opens it before anybody could touch the list.
    visit.open()
    assert title.is_visible()
    assert title.text_content() == shown[-4]


def test_a_photo_without_a_subject_says_so_and_one_that_is_too_large_is_not_sent(
    visit: Visit, tmp_path: Path
) -> None:
    plain, wide, long, empty = (
        tmp_path / f"{each}.png" for each in ("plain", "wide", "long", "no")
    )
    Image.new("RGB", (320, 240), (40, 160, 60)).save(plain)
    Image.new("1", (10_000, 6_000)).save(wide)
    Image.new("1", (70_000, 8)).save(long)
    empty.touch()
    page = visit.open()
    assert "50 megapixels" in page.locator("#limits").inner_text()
    visit.drop(wide, long, empty, plain)
    assert "50 megapixels" in visit.card(wide.name, "failed").locator(".state").inner_text()
    assert "65535 pixels" in visit.card(long.name, "failed").locator(".state").inner_text()
    assert "empty" in visit.card(empty.name, "failed").locator(".state").inner_text()
    # Of a folder that is chosen twice, the files are told apart by numbers.
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice" / "none.jpg").touch()
    for _ in range(2):
        page.set_input_files("#folder", tmp_path / "twice")
    visit.card("2 · twice/none.jpg", "failed")
    visit.card(plain.name, "done").get_by_text("No subject was found").wait_for()
    assert sum(each.endswith("/remove-bg") for each in visit.requested) == 1


def test_a_photo_that_the_browser_cannot_draw_is_kept_by_the_brush(
    visit: Visit, coffee: Path, tmp_path: Path
) -> None:
    original, tiff = pixels(coffee), tmp_path / "cup.tif"
    with Image.open(coffee) as image:
        image.save(tiff)
    page = visit.open()
    visit.drop(tiff)
    card = visit.card(tiff.name, "done")
    download = card.get_by_role("button", name="Download")
    before = visit.saved(download)
    assert page.evaluate("history.state") is None

    # Nobody asked for the photo itself until now.
    assert sum(each.endswith("/remove-bg") for each in visit.requested) == 1
    card.get_by_role("button", name="Touch up").click()
    page.wait_for_selector("#viewer[data-ready]")
    page.get_by_role("radio", name="Keep").check()
    page.locator("#brush-size").fill("10")
    page.locator("#brush-softness").fill("0")
    page.locator(".stage canvas").focus()
    # By keyboard, the brush goes to the corner, and along the rim while the space bar is held.
    for _ in range(6):
        page.keyboard.press("Shift+ArrowLeft")
        page.keyboard.press("Shift+ArrowUp")
    page.keyboard.down(" ")
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.keyboard.up(" ")
    page.keyboard.press("Control+z")
    assert page.locator("#undo").is_disabled()
    page.keyboard.press("Control+Shift+z")
    assert page.locator("#redo").is_disabled()
    page.go_back()
    page.wait_for_selector("#viewer:not([open])", state="attached")
    kept = pixels(visit.saved(download))
    assert far_off(kept[:20, :100], original[:20, :100], levels=24) < 0.01
    assert far_off(kept[60:, :, 3:], pixels(before)[60:, :, 3:]) == 0, "the stroke is nowhere else"

    # The viewer is an entry of the history: Forward and a reload open it again.
    page.go_forward()
    page.wait_for_selector("#viewer[data-ready]")
    visit.open()
    page.wait_for_selector("#viewer[data-ready]")
    page.get_by_role("button", name="Undo all").click()
    page.keyboard.press("Escape")
    assert visit.saved(download).read_bytes() == before.read_bytes()

    drawn = [each.split("/")[-2] for each in visit.requested if "/result" in each][-1]
    with page.expect_request(lambda each: each.method == "DELETE" and drawn in each.url):
        page.get_by_role("button", name="Remove all").click()


def test_backgrounds_are_shown_as_they_are_saved_and_outlast_a_reload(
    visit: Visit, coffee: Path, tmp_path: Path
) -> None:
    original = pixels(coffee)
    # Turned by its EXIF data, which the browser does not heed in a WebP: the service draws it too.
    photo = tmp_path / "turned.webp"
    with Image.open(coffee) as image:
        turned = image.transpose(Image.Transpose.ROTATE_180)
        turned.save(photo, quality=95, exif=exif_orientation(3).tobytes())
    page = visit.open()
    visit.drop(photo)
    card = visit.card(photo.name, "done")
    download = card.get_by_role("button", name="Download")
    page.route("**/api/v1/remove-bg", _refuse)
    page.locator("#background-blur").check()
    card.get_by_text("The photo before cannot be shown. Your key may store no more.").wait_for()
    download.click()
    page.get_by_text("turned.webp was not saved. Your key may store no more.").wait_for()
    page.unroute("**/api/v1/remove-bg")
    blurred = pixels(visit.saved(download))
    assert (blurred[..., 3] == 255).all()
    assert far_off(blurred[:40, :40], original[:40, :40], levels=90) < 0.1, "of its own colors"
    # With any margin, nothing is shown that the photo does not have.
    page.locator("#look-crop").check()
    page.locator("#look-margin").fill("50")
    trimmed = pixels(visit.saved(download))
    assert all(side <= whole for side, whole in zip(trimmed.shape, blurred.shape, strict=True))
    page.locator("#look-crop").uncheck()
    # Beyond its rims are its colors, and nothing that could be made out.
    page.locator("#look-scaled").check()
    page.locator("#look-scale").fill("30")
    around = pixels(visit.saved(download))[:40, :, :3]
    assert max(around.std(axis=(0, 1))) < 25
    page.locator("#look-scaled").uncheck()

    # A picture of one's own outlasts a reload; a JPEG is shown as it is saved, without holes.
    behind = tmp_path / "behind.png"
    Image.new("RGBA", (60, 40), (0, 0, 200, 0)).save(behind)
    with page.expect_file_chooser() as chooser:
        page.locator("#background-picture").click()
    chooser.value.set_files(behind)
    page.locator("#background-picture:checked").wait_for()
    page.locator("#look-format").select_option("jpg")
    page.locator("summary").click()
    page.locator("#param-mask_offset").fill("-2")
    visit.open()
    page.wait_for_selector(".card.shown .after")
    assert page.locator("#background-picture").is_checked()
    assert page.locator("#param-mask_offset").input_value() == "-2"
    assert page.locator("summary").inner_text() == "Edges changed"
    assert page.locator("#edges-again").text_content() == "Cut 1 photo again"
    shown = card.locator(".after").evaluate(_CORNER)
    saved = pixels(visit.saved(download))
    assert shown == saved[0, 0].tolist() == [255, 255, 255, 255]


def test_pictures_of_cards_in_view_are_decoded_before_those_that_were_scrolled_past(
    visit: Visit,
) -> None:
    order = visit.open().evaluate("""async () => {
        const { decodeSmall } = await import("/web/compose.js");
        const order = [];
        window.createImageBitmap = async (number) => order.push(number);
        const photos = [0, 1, 2, 3, 4, 5].map(() => ({ card: { near: true } }));
        const all = photos.map((photo, number) => decodeSmall(number, photo));
        for (const passed of photos.slice(0, 4)) passed.card.near = false;
        await Promise.all(all);
        return order;
    }""")
    assert order == [0, 1, 4, 5, 2, 3]


def test_a_large_photo_goes_on_where_its_upload_broke_off(
    visit: Visit, coffee: Path, tmp_path: Path
) -> None:
    page = visit.open()
    offsets: list[int] = []

    def pieces(route: Route) -> None:
        if route.request.method == "PATCH":
            offsets.append(int(route.request.headers["upload-offset"]))
            if len(offsets) == 2:
                route.abort("connectionfailed")
                return
        route.continue_()

    photo = tmp_path / "huge.bmp"
    with Image.open(coffee) as image:
        image.resize((1800, 1350)).save(photo)
    page.route("**/api/v1/uploads/*", pieces)
    visit.drop(photo)
    visit.card(photo.name, "done")
    assert offsets == [0, 4 * 2**20, 4 * 2**20], "the broken piece is sent again, and no other"

    # What the brush costs while it moves depends on the screen, not on the photo.
    visit.card(photo.name).get_by_role("button", name="Touch up").click()
    x, y, width, _ = visit.stage()
    page.mouse.move(x, y)
    visit.settle()
    page.evaluate(_NOTE_DRAWN)
    page.mouse.down()
    page.mouse.move(x - 50, y - 50, steps=5)
    visit.settle()
    assert 0 < max(page.evaluate("drawn")) <= width
    page.mouse.up()
    assert page.locator("#undo").is_enabled()


def test_photos_that_wait_tell_their_place_and_are_canceled_and_retried(
    waiting: Visit, lone_api: RunningApi, photos: list[Path]
) -> None:
    page = waiting.open()
    waiting.drop(*photos)
    for photo in photos:
        waiting.card(photo.name, "queued")
    page.wait_for_function(
        """() => [...document.querySelectorAll(".state")]
          .every((each) => each.textContent.includes("Nobody works on it now"))"""
    )
    with Runtime(settings_of(lone_api.env)) as runtime:
        registry = lasting_registry(runtime.redis)
        registry.record_heartbeat(WORKER, queue="gpu.testhost.0", model="u2netp")
        registry.record_result(WORKER, 20, ready_seconds=60)
        page.get_by_text("Next in the queue").wait_for()
        page.get_by_text("before it, about").first.wait_for()
        registry.drain(WORKER, "new fan")
        page.get_by_text("Nobody works on it now").first.wait_for()
        registry.undrain(WORKER)
        registry.remove(WORKER)

    card = waiting.card(photos[0].name)
    card.get_by_role("button", name="Cancel").click()
    waiting.card(photos[0].name, "canceled")
    card.get_by_role("button", name="Try again").click()
    waiting.card(photos[0].name, "queued")
    for act, state in (("Cancel all", "canceled"), (f"Try {len(photos)} again", "queued")):
        page.get_by_role("button", name=act).click()
        for photo in photos:
            waiting.card(photo.name, state)


def test_photos_are_found_again_and_two_windows_show_the_same(
    waiting: Visit, lone_api: RunningApi, photos: list[Path], tmp_path: Path
) -> None:
    page = waiting.open()
    waiting.drop(*photos)
    for photo in photos:
        waiting.card(photo.name, "queued")
    card = waiting.card(photos[1].name)
    card.get_by_role("button", name="Cancel").click()
    waiting.card(photos[1].name, "canceled")
    broken = tmp_path / "broken.jpg"
    broken.write_text("no picture")
    waiting.drop(broken)
    waiting.card(broken.name, "failed")
    names = [*(photo.name for photo in photos), broken.name]
    counts = "0 of 3 done, 1 failed, 1 canceled"
    page.locator("#sum", has_text=counts).wait_for()

    # Nothing is sent again, neither what failed by a reload nor what runs by a second window.
    before = len(waiting.requested)
    waiting.open()
    other = waiting.context.new_page()
    other.on("request", lambda request: waiting.requested.append(request.url))
    other.goto(waiting.url)
    for each in (page, other):
        for name, state in zip(names, ("queued", "canceled", "queued", "failed"), strict=True):
            each.locator(f'.card[data-state="{state}"]', has_text=name).wait_for()
        each.locator("#sum", has_text=counts).wait_for()
    assert not [each for each in waiting.requested[before:] if each.endswith("/remove-bg")]

    # What is removed in one window is gone in the other, and back if it is taken back.
    canceled = other.locator(".card", has_text=photos[1].name)
    card.get_by_role("button", name="Remove it").click()
    canceled.wait_for(state="detached")
    page.get_by_role("button", name="Undo").click()
    canceled.wait_for()
    order = [each.get_attribute("title") for each in page.locator(".name").all()]
    assert order == names
    with Runtime(settings_of(lone_api.env)) as runtime:
        # They are erased 8 s after they were removed, or as the page is left.
        known = runtime.job_store.ids(Status.QUEUED)
        page.get_by_role("button", name="Remove all").click()
        page.get_by_text("4 photos are removed. 2 of them were still running.").wait_for()
        other.locator("body.empty").wait_for()
        page.goto("about:blank")  # who leaves has meant it
        eventually(
            "two are erased", lambda: len(runtime.job_store.ids(Status.QUEUED)) <= len(known) - 2
        )
    other.close()
    assert waiting.open().locator(".card").count() == 0


def test_a_service_that_is_away_is_waited_for_and_a_file_that_is_gone_is_not(
    waiting: Visit, coffee: Path, tmp_path: Path
) -> None:
    page = waiting.open()
    gone = Path(shutil.copy(coffee, tmp_path / "gone.jpg"))
    page.route(
        "**/api/v1/remove-bg",
        lambda route: route.abort("connectionrefused") if gone.exists() else route.continue_(),
    )
    page.set_input_files("#files", gone)
    waiting.card(gone.name).get_by_text("The connection broke").wait_for()
    gone.unlink()
    waiting.card(gone.name, "failed").get_by_text("moved, changed or deleted").wait_for()

    full = {"code": 42901, "message": "", "data": None, "error": {"type": "rate_limited"}}
    page.route(
        "**/api/v1/remove-bg",
        lambda route: route.fulfill(status=429, json=full, headers={"Retry-After": "2"}),
    )
    waiting.drop(coffee)
    waiting.card(coffee.name).get_by_text("are used up. Going on in").wait_for()
    page.locator("#banner", has_text="Nothing is sent for now").wait_for()
    page.unroute("**/api/v1/remove-bg")
    waiting.card(coffee.name, "queued")
    assert page.locator("#banner").is_hidden()


def test_a_browser_that_keeps_nothing_shows_the_page_all_the_same(
    browser: Browser, service: RunningService, coffee: Path
) -> None:
    with visiting(browser, service.url) as visit:
        visit.context.add_init_script(_KEEPS_NOTHING)
        page = visit.open()
        visit.drop(coffee)
        visit.card(coffee.name, "done")
        page.locator("[data-preset=square]").click()
        page.locator("[data-preset=square][aria-pressed=true]").wait_for()


def test_everything_is_done_by_keyboard_alone(visit: Visit, coffee: Path, tmp_path: Path) -> None:
    page = visit.open()
    photo = Path(shutil.copy(coffee, tmp_path / "כוס.jpg"))

    def focus(selector: str) -> None:
        """Go on by Tab until an element has the focus."""
        for _ in range(60):
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
            page.keyboard.press("Tab")
        pytest.fail(f"Tab does not lead to {selector}")

    focus("#choose")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(photo)
    visit.card(photo.name, "done")
    focus(".card .split")
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    assert page.locator(".card .split").input_value() == "30"
    focus("#background-none")
    page.keyboard.press("ArrowRight")
    assert page.locator("#background-white").is_checked()
    focus("#download-all")
    with page.expect_download() as found:
        page.keyboard.press("Enter")
    white = pixels(Path(found.value.path()))
    assert (white[..., 3] == 255).all()
    assert (white[0, -1] == 255).all()

    # Where a control goes, the focus goes on: from the last photo, and back to it.
    page.locator("#download-all:focus:not([aria-busy])").wait_for()
    focus("#clear")
    page.keyboard.press("Enter")
    page.locator("#choose:focus").wait_for()
    page.get_by_text(f"\u2068{photo.name}\u2069 is removed.").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator(".card .acts button:focus").wait_for()


def test_a_tenant_sees_its_own_photos_and_its_key_reaches_no_address_and_no_log(
    browser: Browser, keyed_api: RunningApi, coffee: Path
) -> None:
    keys = Runtime(settings_of(keyed_api.env)).api_keys
    shop, studio = keys.add("page-shop")[1], keys.add("page-studio")[1]
    with visiting(browser, keyed_api.url) as mine:
        # What is dropped before waits for the right key, also by a reload.
        page = mine.open()
        page.keyboard.press("Escape")
        mine.drop(coffee)
        page.get_by_text("asks for an API key").first.wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="API key").click()
        mine.use_key("rmbg_wrong")
        page.get_by_text("unknown or was revoked").wait_for()
        mine.open()
        mine.use_key(shop)
        mine.card(coffee.name, "queued")
        mine.open()
        mine.card(coffee.name, "queued")

        # Another person at the same browser.
        page.get_by_role("button", name="API key").click()
        mine.use_key(studio)
        page.locator("body.empty").wait_for()
        mine.open()
        assert page.locator(".card").count() == 0

        # A key that is revoked while it is used: what could not be sent goes on with the next one.
        keys.revoke("page-studio")
        mine.drop(coffee)
        page.get_by_text("unknown or was revoked").wait_for()
        page.get_by_role("button", name="Back").click()
        page.get_by_role("button", name="Enter a key").click()
        mine.use_key(shop)
        page.locator('.card[data-state="queued"]').nth(1).wait_for()

        # After a reload with a key that was revoked, nothing is shown that it has sent.
        keys.revoke("page-shop")
        mine.open()
        page.get_by_text("unknown or was revoked").wait_for()
        mine.use_key(keys.add("page-other")[1])
        page.locator("#key-dialog").wait_for(state="hidden")
        mine.settle()
        assert page.locator(".card").count() == 0
        assert not [each for each in mine.requested if shop in each or studio in each]
    assert shop not in keyed_api.log.read_text()


def test_a_photo_by_address_is_fetched_by_the_service(visit: Visit, coffee: Path) -> None:
    page = visit.open()
    page.get_by_role("button", name="By web address").click()
    page.locator("#addresses").fill("no address")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Add them").click()
    assert "is no web address" in page.locator("#address-fault").inner_text()
    with website({"/cup.jpg": coffee.read_bytes()}) as site:
        # An answer that breaks off is asked for again.
        page.route("**/api/v1/remove-bg", lambda route: route.fulfill(body='{"data":'), times=1)
        page.locator("#addresses").fill(f"{site}/cup.jpg\n{site}/none.jpg")
        page.get_by_role("button", name="Add them").click()
        visit.card("cup.jpg", "done")
        failed = visit.card("none.jpg", "failed")
    assert "Nothing could be fetched" in failed.locator(".state").inner_text()


def test_a_cutout_stays_until_a_new_one_comes_and_an_archive_tells_what_it_lacks(
    visit: Visit, coffee: Path, tmp_path: Path
) -> None:
    plain, wide = tmp_path / "plain.png", tmp_path / "wide.png"
    Image.new("RGB", (320, 240), (40, 160, 60)).save(plain)
    Image.new("RGB", (320, 64), "gray").save(wide)
    page = visit.open()
    visit.drop(coffee, plain)
    card = visit.card(coffee.name, "done")
    visit.card(plain.name, "done").get_by_text("No subject was found").wait_for()
    download = card.get_by_role("button", name="Download")
    former = visit.saved(download).read_bytes()
    page.locator("summary").click()
    page.locator("#param-mask_offset").fill("-9")

    # While it runs, when it is canceled, and when it fails, the former one is there.
    page.route("**/api/v1/remove-bg", lambda _: None)
    page.get_by_role("button", name="Cut 2 photos again").click()
    card.get_by_role("button", name="Cancel").wait_for()
    assert visit.saved(download).read_bytes() == former
    card.get_by_role("button", name="Open large").click()
    page.get_by_role("button", name="Next photo").click()
    assert page.locator("#viewer-name").text_content() == plain.name
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Cancel all").click()
    visit.card(coffee.name, "done")
    assert visit.saved(download).read_bytes() == former
    page.unroute("**/api/v1/remove-bg")
    page.route("**/api/v1/remove-bg", _refuse)
    page.locator("#param-mask_offset").fill("-8")
    page.locator("#edges-again").click()
    card.get_by_text("This is the cutout from before. Your key may store no more.").wait_for()
    assert visit.saved(download).read_bytes() == former
    page.unroute("**/api/v1/remove-bg")
    page.locator("#param-mask_offset").fill("-9")
    page.locator("#edges-again").click()
    card.get_by_text("Cut out in").wait_for()
    assert visit.saved(download).read_bytes() != former

    # Some still run: the archive waits for them, or names them.
    page.route("**/api/v1/remove-bg", lambda _: None)
    visit.drop(wide)
    visit.card(wide.name).get_by_role("button", name="Cancel").wait_for()
    page.get_by_role("button", name="Download 2 of 3").first.click()
    page.get_by_role("button", name="Take 2").wait_for()
    page.get_by_role("button", name="Wait for all").click()
    page.get_by_role("button", name="Waiting for 1").click()
    page.get_by_role("button", name="Download 2 of 3").click()
    archive = zipfile.ZipFile(visit.saved(page.locator("#some-take")))
    assert archive.namelist() == ["coffee.png"]
    lacking = "Not in the archive: 2, namely wide.png (running), plain.png (no subject)."
    page.get_by_text(lacking).wait_for()
    page.get_by_role("button", name="Download 2 of 3").click()
    page.get_by_role("button", name="Wait for all").click()
    with page.expect_download():
        visit.card(wide.name).get_by_role("button", name="Cancel").click()


@pytest.mark.parametrize("preset", ["marketplace", "transparent"])
def test_a_preset_gives_the_same_picture_as_the_service(
    visit: Visit, service: RunningService, coffee: Path, preset: Preset
) -> None:
    page = visit.open()
    visit.drop(coffee)
    card = visit.card(coffee.name, "done")
    # A second click takes back what the first has set, but for what was changed since.
    chip = page.locator(f'[data-preset="{preset}"]')
    page.locator("#look-shadow").check()
    chip.click()
    assert page.locator(".of-preset").count() > 1
    page.locator("#background-blur").check()
    chip.click()
    assert page.locator(".of-preset").count() == 0
    assert page.locator("#look-shadow").is_checked()
    assert page.locator("#background-blur").is_checked()
    page.get_by_role("button", name="Reset the look").click()
    assert page.locator("#background-none").is_checked()
    chip.click()
    made = visit.download(card.get_by_role("button", name="Download"))
    parameters = {name: str(value) for name, value in PRESETS[preset].items()}
    served = pixels(service.client.cut_out(coffee, parameters))
    drawn = pixels(Path(made.path()))
    assert made.suggested_filename == f"coffee.{parameters['output_format']}"
    assert drawn.shape == served.shape
    # Browsers and Pillow enlarge by filters of their own.
    assert far_off(drawn, served, levels=24) < 0.02
