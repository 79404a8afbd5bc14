"""Counts requests, and shows at `/metrics` what this service and Redis count."""

from time import perf_counter
from typing import Final

from flask import Flask, Response, g, request
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from api.services import Services
from tasks.meters import meters, scraped
from tasks.probing import PROBE_SECONDS, probe_store
from tasks.queue_metrics import QueueMetrics
from tasks.runtime import Runtime

PATH: Final = "/metrics"
_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


def install_metrics(app: Flask, queues: QueueMetrics) -> None:
    """Count every request of the application, and add the page for Prometheus."""

    @app.before_request
    def _start() -> None:
        g.metrics_started = perf_counter()

    @app.after_request
    def _count(response: Response) -> Response:
        count_request(response.status_code)
        return response

    @app.get(PATH)
    def _metrics() -> Response:
        return Response(generate_latest(scraped(queues)), content_type=CONTENT_TYPE_LATEST)


def queue_metrics(services: Services) -> QueueMetrics:
    """What Redis knows, over connections of its own that give up quickly."""
    settings = services.settings
    quick = Runtime.from_settings(settings, redis_timeout=PROBE_SECONDS)
    return QueueMetrics(quick.redis, quick.registry, lambda: probe_store(settings))


def count_request(status: int) -> None:
    """Count the present request; its route is the pattern, since a path holds ids."""
    method = request.method if request.method in _METHODS else "other"
    route = request.url_rule.rule if request.url_rule else "none"
    took = perf_counter() - g.get("metrics_started", perf_counter())
    meters().http_requests.labels(method, route, str(status)).inc()
    meters().http_seconds.labels(method, route).observe(took)
