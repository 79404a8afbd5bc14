"""`GET /api/v1/info`: the version, the models, and how workers run them."""

from api.services import Services
from tests.support.tenants import Tenant


def test_the_service_says_what_it_is(services: Services, shop: Tenant) -> None:
    info = shop.data("/api/v1/info")
    assert info["version"]
    (model,) = info["models"]
    assert (model["name"], model["default"]) == ("u2netp", True)
    assert model["licence"]
    assert model["commercial_use"] is True
    assert info["limits"]["max_image_bytes"] == services.settings.max_image_bytes
    assert {"jpeg", "png", "webp"} <= set(info["input_formats"])
    assert info["output_formats"] == ["png", "webp", "jpg"]


def test_the_service_says_how_workers_run_their_models(services: Services, shop: Tenant) -> None:
    for number, facts in enumerate(
        [
            {"path": "graphed", "path_reason": ""},
            {"path": "fast", "path_reason": "no compiler"},
            {"path": "fast", "path_reason": "no compiler"},
        ]
    ):
        worker = f"gpu{number}@h"
        services.runtime.registry.record_heartbeat(
            worker, queue=f"gpu.h.{number}", model="rmbg-2.0"
        )
        services.runtime.registry.mark_ready(worker, 60, **facts)
    models = {model["name"]: model for model in shop.data("/api/v1/info")["models"]}
    assert models["u2netp"]["paths"] == []
    assert models["rmbg-2.0"]["paths"] == ["fast: no compiler", "graphed"]
    assert models["rmbg-2.0"]["commercial_use"] is False
