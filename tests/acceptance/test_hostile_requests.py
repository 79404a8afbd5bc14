"""Little input that asks for much work takes little processor time and memory."""

from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import psutil
import pytest

from tests.support.hostile_requests import (
    FILES,
    MB,
    HostileRequest,
    as_upload,
    hostile_requests,
    large_document,
    measured,
    most_memory,
    picture_form,
)
from tests.support.service import RunningService
from tests.support.submissions import PICTURE

#: What the API may take for a request.
_SECONDS, _BYTES = 1.0, 50 * MB
#: What eight requests of 10 MB may take at once, of which each is decoded: more than the bytes.
_BYTES_OF_EIGHT = 120 * MB


def _api(service: RunningService) -> list[psutil.Process]:
    return psutil.Process(service.api.pid).children()


def _over(service: RunningService, request: HostileRequest) -> str:
    """Send a request; say what of the API it took too much of, and how it was answered if badly."""
    with measured(_api(service)) as cost:
        status, _ = request.send(service.api.port)
    wrong = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if wrong or cost.seconds > _SECONDS or cost.memory > _BYTES:
        return f"{status}, {cost.seconds:.2f} s, {cost.memory / MB:.0f} MB"
    return ""


@pytest.mark.slow
@pytest.mark.hostile
def test_no_input_takes_much_time_or_memory_of_the_api_nor_keeps_memory(
    service: RunningService,
) -> None:
    for _ in range(10):
        picture_form(PICTURE).send(service.api.port)
    processes, before = _api(service), most_memory(_api(service))
    over = {name: found for name, each in hostile_requests() if (found := _over(service, each))}
    upload = as_upload(FILES["a TIFF of tags at both ends"](), service.api.port)
    over |= {"an upload": found} if (found := _over(service, upload)) else {}
    assert over == {}
    document = large_document()
    with measured(_api(service)) as cost, ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: document.send(service.api.port)[0], range(8)))
    assert (set(statuses), cost.memory < _BYTES_OF_EIGHT) == ({202}, True), cost
    assert _api(service) == processes
    assert most_memory(processes) < 1.2 * before
