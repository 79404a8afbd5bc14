"""`GET /api/v1/info`: the version, the models, and how workers run them."""

from inference.presets import PRESETS
from tests.support.api import Api


def test_the_service_says_what_it_is_and_how_workers_run_their_models(api: Api) -> None:
    registry = api.runtime.registry
    paths = [("graphed", ""), ("fast", "no compiler"), ("fast", "no compiler")]
    for number, (path, reason) in enumerate(paths):
        worker = f"gpu{number}@h"
        registry.record_heartbeat(worker, queue=f"gpu.h.{number}", model="rmbg-2.0")
        registry.mark_ready(worker, 60, path=path, path_reason=reason)
    info = api.data("/api/v1/info")
    assert info["version"]
    assert info["limits"]["max_image_bytes"] == api.services.settings.max_image_bytes
    assert {"jpeg", "png", "webp", "heic"} <= set(info["input_formats"])
    assert info["output_formats"] == ["png", "webp", "avif", "jpg"]
    models = {model["name"]: model for model in info["models"]}
    assert (models["u2netp"]["default"], models["u2netp"]["paths"]) == (True, [])
    assert models["rmbg-2.0"]["paths"] == ["fast: no compiler", "graphed"]
    commercial = {name: model["commercial_use"] for name, model in models.items()}
    assert commercial == {"u2netp": True, "rmbg-2.0": False}
    assert all(model["licence"] for model in models.values())


def test_the_tables_of_parameters_and_presets_are_what_a_submission_takes(api: Api) -> None:
    info = api.data("/api/v1/info")
    parameters = {each["name"]: each for each in info["parameters"]}
    quality = parameters["quality"]
    assert (quality["type"], quality["default"]) == ("integer", 92)
    assert (quality["minimum"], quality["maximum"]) == (1, 100)
    assert parameters["output_format"]["choices"] == info["output_formats"]
    assert {"mask_threshold", "mask_offset", "mask_feather", "refine"} <= parameters.keys()
    assert {each["name"] for each in info["presets"]} == set(PRESETS)
    for preset in info["presets"]:
        assert api.send(**preset["parameters"]).status_code == 202, preset["name"]
