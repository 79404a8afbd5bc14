"""`/healthz`: liveness of this process, and readiness of the service."""

from collections.abc import Callable
from typing import Any

from flask.views import MethodView

from api.auth import services
from api.errors import ApiError
from api.openapi import ApiBlueprint
from api.request_hooks import success
from api.schemas import HealthSchema, envelope
from tasks.errors import TaskError
from tasks.object_store import probe_object_store
from tasks.redis_client import probe_redis

blueprint = ApiBlueprint("health", __name__, url_prefix="/healthz", description="Health.")


@blueprint.route("/live")
class Live(MethodView):
    """Liveness of this process."""

    @blueprint.response(200, envelope(HealthSchema))
    def get(self) -> dict[str, Any]:
        """Check that this process answers."""
        return success({"checks": {"process": "ok"}})


@blueprint.route("/ready")
class Ready(MethodView):
    """Readiness of the service."""

    @blueprint.response(200, envelope(HealthSchema))
    @blueprint.fails("not_ready")
    def get(self) -> dict[str, Any]:
        """Check that Redis, the object store and a worker are available."""
        settings, role = services().settings, services().runtime.object_store.role
        checks = {
            # On new connections: pooled ones may work while the server accepts no new ones.
            "redis": _outcome(lambda: probe_redis(settings)),
            "store": _outcome(lambda: probe_object_store(settings, role)),
            "worker": _outcome(_require_worker),
        }
        failed = {name: reason for name, reason in checks.items() if reason != "ok"}
        if failed:
            listed = " ".join(f"{name}: {reason}" for name, reason in failed.items())
            raise ApiError("not_ready", listed, fields=failed)
        return success({"checks": checks})


def _require_worker() -> None:
    if not services().runtime.registry.ready_names():
        raise TaskError("No worker has a model ready.")


def _outcome(check: Callable[[], None]) -> str:
    try:
        check()
    except TaskError as error:
        return str(error)
    return "ok"
