"""The operators' page at `/ops` in a real browser: what it shows, what it changes, and to whom."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tasks.jobs.job import JobError, Status
from tasks.operations import DEFAULT_REASON
from tasks.runtime import Runtime
from tests.support.browser import AXE, PHONE, barriers, small_targets, visiting
from tests.support.commands import WORKER, crash
from tests.support.jobs import make_job, recorded
from tests.support.service import RunningApi, settings_of
from tests.support.workers import lasting_registry

URL = "https://shop.example/hook?token=hush-hush"


@pytest.fixture
def runtime(lone_api: RunningApi) -> Iterator[Runtime]:
    with Runtime(settings_of(lone_api.env)) as runtime:
        runtime.redis.flushdb()
        _register(runtime)
        yield runtime


def _register(runtime: Runtime) -> None:
    """Let a worker be ready that nobody runs."""
    registry = lasting_registry(runtime.redis)
    registry.record_heartbeat(WORKER, queue="gpu.testhost.0", model="u2netp")
    registry.mark_ready(WORKER, 60, pid=7, resident=3 * 2**30, gpu_used=2**30, gpu_total=2**35)


def _failed(runtime: Runtime, **fields: object) -> str:
    task_id = runtime.job_store.create(make_job(**fields)).job.task_id
    runtime.job_store.claim(task_id, token="w/1/x", worker="w")
    error = JobError("invalid_image", "The picture is damaged.", retryable=False)
    runtime.job_store.finish(task_id, token="w/1/x", status=Status.FAILED, error=error)
    return task_id


def _dead(runtime: Runtime) -> str:
    task_id = runtime.job_store.create(make_job()).job.task_id
    crash(runtime.job_store, task_id)
    return task_id


def test_a_worker_is_drained_and_tasks_are_queued_again(
    browser: Browser, lone_api: RunningApi, runtime: Runtime
) -> None:
    failed, dead = _failed(runtime, webhook_url=URL), _dead(runtime)
    others, kept = [_failed(runtime, owner="other-shop") for _ in range(2)], _failed(runtime)
    with visiting(browser, lone_api.url) as visit:
        page = visit.open("/")
        page.get_by_role("link", name="Operations").click()
        page.wait_for_selector("html[data-ready]")
        worker = page.locator(f'[data-name="{WORKER}"]')
        assert worker.locator(".badge").inner_text() == "ready"
        assert "3 GB of memory · GPU memory 1 GB of 32 GB" in worker.inner_text()
        assert page.locator("#grafana").get_attribute("href") == lone_api.env["RMBG_GRAFANA_URL"]

        worker.get_by_role("button", name="Drain").click()
        assert "No other worker takes photos of u2netp" in page.locator("#sure-why").inner_text()
        page.locator("#reason").fill("new fan")
        page.keyboard.press("Enter")
        worker.locator(".badge.drained").wait_for()
        page.get_by_text(f"{WORKER} is drained").first.wait_for()
        page.locator("#unserved", has_text="Nobody takes photos of u2netp").wait_for()
        assert "new fan" in worker.inner_text()
        assert runtime.registry.drained(WORKER) == "new fan"
        worker.get_by_role("button", name="Undrain").press("Enter")
        worker.locator(".badge.ready").wait_for()
        assert page.locator("#unserved").is_hidden()

        page.get_by_role("button", name=f"Requeue: {failed}").click()
        page.locator(f'#failed [data-name="{failed}"]').wait_for(state="detached")
        assert recorded(runtime.job_store, failed).status is Status.QUEUED

        # Many at once: those that the filter leaves.
        assert page.locator("#failed-count").inner_text() == "3"
        page.get_by_label("Filter the lists below").fill("OTHER-SHOP")
        page.get_by_text("2 of 3").wait_for()
        page.get_by_role("button", name="Requeue all shown").click()
        page.locator("#sure-go").click()
        page.get_by_text("2 of 2 done.").wait_for()
        page.get_by_text("None of those shown matches the filter.").first.wait_for()
        assert {recorded(runtime.job_store, each).status for each in others} == {Status.QUEUED}
        page.get_by_label("Filter the lists below").fill("")
        page.locator(f'#failed [data-name="{kept}"]').wait_for()
        page.get_by_role("button", name=f"Drop: {dead}").click()
        page.locator("#sure-go").click()
        page.locator(f'#failed [data-name="{dead}"]').wait_for()
        assert runtime.job_store.dead() == []

        hook = page.locator("#hooks .row")
        assert "shop.example" in hook.inner_text()
        assert "hush-hush" not in page.content()
        hook.get_by_role("button", name="Send again").click()
        page.get_by_text("is sent again").first.wait_for()
        assert "audit.webhook_replayed" in lone_api.log.read_text()
        hook.get_by_role("button", name="Drop").click()
        page.locator("#sure-go").click()
        hook.wait_for(state="detached")

        # What others change is seen without a reload.
        runtime.registry.drain(WORKER, "from the command line")
        worker.locator(".badge.drained").wait_for()


def test_a_key_that_is_no_operators_is_told_so(browser: Browser, keyed_api: RunningApi) -> None:
    with Runtime(settings_of(keyed_api.env)) as runtime, visiting(browser, keyed_api.url) as visit:
        _register(runtime)
        shop = runtime.api_keys.add("ops-shop")[1]
        operator = runtime.api_keys.add("ops-operator", operator=True)[1]
        page = visit.open("/ops")
        visit.use_key(shop)
        page.get_by_text("This page is for operators").wait_for()
        assert page.locator(".row").count() == 0
        visit.use_key(operator)
        page.locator(f'[data-name="{WORKER}"]').wait_for()
        page.get_by_role("button", name="Drain").click()
        page.locator("#sure-go").click()
        page.locator(".badge.drained").wait_for()
        # It is revoked while the page is open, which says so, and of when what it shows is.
        runtime.api_keys.revoke("ops-operator")
        page.locator("#fault", has_text="no longer accepted").wait_for()
        assert "What you see is as of" in page.locator("#fault").inner_text()
        assert not [each for each in visit.requested if shop in each or operator in each]
    assert "audit.worker_drained" in keyed_api.log.read_text()


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed: make clients")
def test_axe_finds_no_barrier(browser: Browser, lone_api: RunningApi, runtime: Runtime) -> None:
    _failed(runtime, webhook_url=URL)
    _dead(runtime)
    with visiting(browser, lone_api.url) as visit:
        page = visit.open("/ops")
        assert barriers(page) == []
        page.get_by_role("button", name="Drain").click()
        assert barriers(page) == []


def test_on_a_phone_everything_fits_and_can_be_hit(
    browser: Browser, lone_api: RunningApi, runtime: Runtime
) -> None:
    _failed(runtime, webhook_url=URL)
    _dead(runtime)
    runtime.registry.drain(WORKER, DEFAULT_REASON)
    with visiting(browser, lone_api.url, locale="zh-CN", **PHONE) as visit:
        page = visit.open("/ops")
        assert "由管理员操作" in page.locator(f'[data-name="{WORKER}"]').inner_text()
        assert page.locator("#open-key").is_hidden(), "no keys are used here"
        assert small_targets(visit) == []
        assert page.evaluate("document.documentElement.scrollWidth") == 360
