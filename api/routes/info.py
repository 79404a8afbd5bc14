"""`/api/v1/info`: version, models, limits and formats of this service."""

from typing import Any

from flask.views import MethodView
from marshmallow import Schema, fields

from api.auth import current_owner, services
from api.openapi import ApiBlueprint
from api.parameters import FORMATS
from api.responses import success
from api.schemas import envelope
from api.waiting import MAX_WAIT_SECONDS
from inference.errors import ModelError
from inference.models.registry import ModelSpec, get_spec
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
    max_wait_seconds = fields.Integer(required=True)
    retention_hours = fields.Float(required=True)
    pictures_per_minute = fields.Float(
        required=True, allow_none=True, metadata={"description": "Of the caller's key."}
    )


class InfoSchema(Schema):
    """Version, models, limits and formats of this service."""

    version = fields.String(required=True)
    pipeline_version = fields.String(required=True)
    models = fields.List(fields.Nested(ModelSchema), required=True)
    limits = fields.Nested(LimitsSchema, required=True)
    input_formats = fields.List(fields.String(), required=True)
    output_formats = fields.List(fields.String(), required=True)


@blueprint.route("/info")
class Info(MethodView):
    """The service itself."""

    @blueprint.response(200, envelope(InfoSchema))
    def get(self) -> dict[str, Any]:
        """Get the version, the models with their licences, the limits and the formats."""
        return success(
            {
                "version": __version__,
                "pipeline_version": str(PIPELINE_VERSION),
                "models": [_model(spec) for spec in _served()],
                "limits": _limits(),
                "input_formats": [name.lower() for name in accepted_formats()],
                "output_formats": list(FORMATS),
            }
        )


def _served() -> list[ModelSpec]:
    """Return the models with a live worker and the default one, as far as the key may use them."""
    names = {worker.model for worker in services().runtime.registry.workers() if worker.usable}
    names.add(services().settings.model)
    return [spec for spec in map(_spec, sorted(filter(None, names))) if spec is not None]


def _spec(name: str) -> ModelSpec | None:
    try:
        return get_spec(name) if current_owner().may_use(name) else None
    except ModelError:
        return None  # a worker of a newer version


def _model(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "title": spec.title,
        "licence": spec.licence,
        "licence_url": spec.licence_url,
        "commercial_use": spec.commercial_use,
        "default": spec.name == services().settings.model,
        "paths": _paths(spec.name),
    }


def _paths(model: str) -> list[str]:
    workers = services().runtime.registry.workers()
    found = {(w.path, w.path_reason) for w in workers if w.usable and w.model == model and w.path}
    return sorted(f"{path}: {reason}" if reason else path for path, reason in found)


def _limits() -> dict[str, Any]:
    settings = services().settings
    return {
        "max_image_bytes": settings.max_image_bytes,
        "max_megapixels": settings.max_megapixels,
        "min_side": settings.image_limits.min_side,
        "max_wait_seconds": MAX_WAIT_SECONDS,
        "retention_hours": settings.retention_hours,
        "pictures_per_minute": current_owner().rate_per_minute,
    }
