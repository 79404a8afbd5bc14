"""The self-check of `rmbg up` accepts a cutout and nothing else; what stops it."""

import asyncio
import io
import os
import signal
from pathlib import Path
from unittest.mock import Mock

import pytest
from PIL import Image

from deploy.local.service import SelfCheckError
from deploy.local.up import _on_signals, check_cutout, run_self_check

SIZE = (40, 30)


def _cutout(
    size: tuple[int, int] = SIZE,
    *,
    low: int = 0,
    high: int = 255,
    mode: str = "RGBA",
    form: str = "PNG",
) -> bytes:
    image = Image.new("RGBA", size, (200, 0, 0, low))
    image.paste((200, 0, 0, high), (5, 5, 20, 20))
    file = io.BytesIO()
    image.convert(mode).save(file, form)
    return file.getvalue()


def test_a_cutout_passes_the_self_check() -> None:
    check_cutout(_cutout(), SIZE)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (_cutout((40, 31)), "40×31"),
        (_cutout(mode="RGB"), "PNG RGB"),
        (_cutout(form="WEBP"), "WEBP"),
        (_cutout(low=255), "from 255 to 255"),
        (_cutout(high=0), "from 0 to 0"),
        (b"<html>", "no image"),
    ],
    ids=["size", "no alpha", "format", "opaque", "clear", "no image"],
)
def test_anything_else_fails_the_self_check(data: bytes, complaint: str) -> None:
    with pytest.raises(SelfCheckError, match=complaint):
        check_cutout(data, SIZE)


def test_the_self_check_says_what_keeps_it_from_asking(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/none")
    with pytest.raises(SelfCheckError, match="SSL_CERT_FILE"):
        run_self_check("http://127.0.0.1:9", tmp_path / "cutout.png")


@pytest.mark.parametrize(
    ("before", "stops"), [(signal.SIG_IGN, False), (signal.SIG_DFL, True)], ids=["nohup", "usual"]
)
def test_who_has_started_it_by_nohup_may_leave(before: signal.Handlers, *, stops: bool) -> None:
    async def leave() -> bool:
        requested = _on_signals(Mock(), Mock())
        os.kill(os.getpid(), signal.SIGHUP)
        seen = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, seen.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await seen.wait()  # and so is what came before
        return requested.is_set()

    kept = signal.signal(signal.SIGHUP, before)
    try:
        assert asyncio.run(leave()) == stops
    finally:
        signal.signal(signal.SIGHUP, kept)
