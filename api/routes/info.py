"""`/api/v1/info`: version, models, limits, formats, parameters and presets of this service."""

from typing import Any

from flask.views import MethodView
from marshmallow import Schema, fields, validate

from api.auth import current_owner, is_operator, services
from api.openapi import ApiBlueprint
from api.parameters import FORMATS, describe_parameters
from api.request_hooks import success
from api.schemas import envelope
from api.waiting import MAX_WAIT_SECONDS
from inference.models.registry import MODELS
from inference.presets import PRESETS
from inference.probe import accepted_formats
from inference.version import PIPELINE_VERSION, __version__

blueprint = ApiBlueprint("info", __name__, url_prefix="/api/v1", description="About this service.")


class ModelSchema(Schema):
    """A served model and its licence."""

    name = fields.String(required=True, metadata={"example": "rmbg-2.0"})
    title = fields.String(required=True)
    licence = fields.String(required=True)
    licence_url = fields.String(required=True)
    commercial_use = fields.Boolean(
        required=True, metadata={"description": "false: only with its authors' permission."}
    )
    default = fields.Boolean(required=True)
    paths = fields.List(
        fields.String(),
        required=True,
        metadata={
            "description": "How live workers run it, and why not in a quicker way; empty where "
            "there is one way only.",
            "example": ["fast"],
        },
    )


class LimitsSchema(Schema):
    """The limits of a request."""

    max_image_bytes = fields.Integer(required=True)
    max_megapixels = fields.Float(required=True)
    min_side = fields.Integer(required=True, metadata={"description": "Pixels."})
    max_side = fields.Integer(required=True, metadata={"description": "Pixels."})
    max_wait_seconds = fields.Integer(required=True)
    retention_hours = fields.Float(required=True)
    pictures_per_minute = fields.Float(
        required=True, allow_none=True, metadata={"description": "Of the caller's key."}
    )


class ParameterSchema(Schema):
    """A parameter of a picture."""

    name = fields.String(required=True, metadata={"example": "mask_feather"})
    type = fields.String(
        required=True, validate=validate.OneOf(["boolean", "integer", "number", "string"])
    )
    default = fields.Raw(required=True, allow_none=True)
    minimum = fields.Float(required=True, allow_none=True)
    maximum = fields.Float(required=True, allow_none=True)
    choices = fields.List(fields.String(), required=True)
    description = fields.String(required=True)


class PresetSchema(Schema):
    """Parameters that suit a purpose."""

    name = fields.String(required=True, metadata={"example": "marketplace"})
    parameters = fields.Dict(
        keys=fields.String(),
        required=True,
        metadata={"example": {"matte_color": "#ffffff", "canvas": "2000x2000", "scale": "85%"}},
    )


class InfoSchema(Schema):
    """Version, models, limits and formats of this service."""

    version = fields.String(required=True)
    pipeline_version = fields.String(required=True)
    models = fields.List(fields.Nested(ModelSchema), required=True)
    limits = fields.Nested(LimitsSchema, required=True)
    input_formats = fields.List(fields.String(), required=True)
    output_formats = fields.List(fields.String(), required=True)
    parameters = fields.List(fields.Nested(ParameterSchema), required=True)
    presets = fields.List(fields.Nested(PresetSchema), required=True)
    operator = fields.Boolean(
        required=True, metadata={"description": "Whether the caller may use `/ops`."}
    )


@blueprint.route("/info")
class Info(MethodView):
    """The service itself."""

    @blueprint.response(200, envelope(InfoSchema))
    def get(self) -> dict[str, Any]:
        """Get the version, the models with their licences, the limits and the formats."""
        settings, owner = services().settings, current_owner()
        return success(
            {
                "version": __version__,
                "pipeline_version": str(PIPELINE_VERSION),
                "models": _models(),
                "limits": {
                    "max_image_bytes": settings.max_image_bytes,
                    "max_megapixels": settings.max_megapixels,
                    "min_side": settings.image_limits.min_side,
                    "max_side": settings.image_limits.max_side,
                    "max_wait_seconds": MAX_WAIT_SECONDS,
                    "retention_hours": settings.retention_hours,
                    "pictures_per_minute": owner.rate_per_minute,
                },
                "input_formats": [name.lower() for name in accepted_formats()],
                "output_formats": list(FORMATS),
                "parameters": describe_parameters(),
                "presets": [
                    {"name": name, "parameters": dict(each)} for name, each in PRESETS.items()
                ],
                "operator": is_operator(),
            }
        )


def _models() -> list[dict[str, Any]]:
    """Describe the models with a live worker and the default one, if the key may use them."""
    workers = [worker for worker in services().runtime.registry.workers() if worker.usable]
    default = services().settings.model
    shown = []
    for name in sorted({default, *(worker.model for worker in workers)}):
        spec = MODELS.get(name)  # None: a worker of a newer version
        if spec is None or not current_owner().may_use(name):
            continue
        paths = {(each.path, each.path_reason) for each in workers if each.model == name}
        shown.append(
            {
                "name": name,
                "title": spec.title,
                "licence": spec.licence,
                "licence_url": spec.licence_url,
                "commercial_use": spec.commercial_use,
                "default": name == default,
                "paths": sorted(
                    f"{path}: {reason}" if reason else path for path, reason in paths if path
                ),
            }
        )
    return shown
