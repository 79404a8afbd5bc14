"""The four dashboards: the service from outside, its GPU workers, its queues, its webhooks.

What Redis counts is shown by every host of the API alike, so it is taken as the `max` over them.
"""

from typing import Final

from deploy.monitoring.panels import Dashboard, Panel, Query

_RANGE: Final = "[$__rate_interval]"
_ERRORS: Final = '{status="error"}'
_POSTED: Final = '{method="POST"}'


def _rate(metric: str, chosen: str = "") -> str:
    return f"rate({metric}{chosen}{_RANGE})"


def _once(metric: str) -> str:
    """What all hosts of the API show alike."""
    return f"max without (instance, service) ({metric})"


def _quantiles(
    metric: str, *, chosen: str = "", by: str = "", shared: bool = False
) -> tuple[Query, ...]:
    rate = _rate(f"{metric}_bucket", chosen)
    rate = _once(rate) if shared else rate
    labels = f"le, {by}" if by else "le"
    name = f" {{{{{by}}}}}" if by else ""
    return tuple(
        Query(f"histogram_quantile({share}, sum by ({labels}) ({rate}))", f"p{percent}{name}")
        for share, percent in ((0.5, 50), (0.95, 95), (0.99, 99))
    )


def _share(part: str, whole: str) -> str:
    """A part of a whole; 0 while nothing of that part has been seen."""
    return f"(sum({part}) or vector(0)) / sum({whole})"


def _count(metric: str) -> Query:
    legend = metric.removeprefix("rmbg_").removesuffix("_total")
    return Query(f"{_once(_rate(metric))} or vector(0)", legend)


SERVICE: Final = Dashboard(
    "rmbg-service",
    "rmbg: service",
    (
        Panel(
            "Requests",
            (Query(f"sum by (status) ({_rate('rmbg_http_requests_total')})", "{{status}}"),),
            "reqps",
            "Answers of the API by HTTP status.",
        ),
        Panel(
            "Share of 5xx answers",
            (
                Query(
                    _share(
                        _rate("rmbg_http_requests_total", '{status=~"5.."}'),
                        _rate("rmbg_http_requests_total"),
                    ),
                    "5xx",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Duration of submissions",
            _quantiles("rmbg_http_request_seconds", chosen=_POSTED),
            "s",
            "Requests that wait for a task's end are left out.",
        ),
        Panel(
            "From submission to the end of a job",
            _quantiles("rmbg_job_seconds", shared=True),
            "s",
        ),
        Panel(
            "Jobs by their end",
            (Query(f"sum by (status) ({_once(_rate('rmbg_jobs_total'))})", "{{status}}"),),
            "ops",
        ),
        Panel(
            "Share of jobs that failed",
            (
                Query(
                    _share(
                        _once(_rate("rmbg_jobs_total", '{status="failed"}')),
                        _once(_rate("rmbg_jobs_total")),
                    ),
                    "failed",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Cache",
            (
                Query(
                    f"sum by (level, result) ({_rate('rmbg_cache_total')})", "{{level}} {{result}}"
                ),
                _count("rmbg_joined_total"),
            ),
            "ops",
            "Hits run no model; a joined job waits for an equal one that runs.",
        ),
        Panel(
            "Do Redis and the store answer?",
            (
                Query("min without (instance, service) (rmbg_redis_up)", "Redis"),
                Query("min without (instance, service) (rmbg_store_up)", "store"),
            ),
        ),
        Panel(
            "Processes that Prometheus reaches",
            (Query('sum by (service) (up{job="rmbg"})', "{{service}}"),),
        ),
        Panel("Versions", (Query("count by (version) (rmbg_build_info)", "{{version}}"),)),
    ),
)

WORKERS: Final = Dashboard(
    "rmbg-workers",
    "rmbg: GPU workers",
    (
        Panel(
            "Workers that live and answer",
            (Query(_once("rmbg_worker_up"), "{{worker}}"),),
            text="1: its parent lives and its model answered lately.",
        ),
        Panel(
            "Drained workers",
            (Query(f"{_once('rmbg_worker_drained')} or vector(0)", "{{worker}} by {{by}}"),),
        ),
        Panel(
            "Inferences",
            (
                Query(
                    f"sum by (worker, status) ({_rate('rmbg_inference_seconds_count')})",
                    "{{worker}} {{status}}",
                ),
            ),
            "ops",
        ),
        Panel("Inference", _quantiles("rmbg_inference_seconds", by="worker"), "s"),
        Panel(
            "Mean of each stage",
            (
                Query(
                    f"sum by (stage) ({_rate('rmbg_stage_seconds_sum')}) / "
                    f"sum by (stage) ({_rate('rmbg_stage_seconds_count')})",
                    "{{stage}}",
                ),
            ),
            "s",
            "Where a job's time goes; `queue` is its wait.",
        ),
        Panel(
            "Share of inferences that failed",
            (
                Query(
                    f"(sum by (worker) ({_rate('rmbg_inference_seconds_count', _ERRORS)}) "
                    "or sum by (worker) (rmbg_inference_seconds_count) * 0) / "
                    f"sum by (worker) ({_rate('rmbg_inference_seconds_count')})",
                    "{{worker}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Starts of a model's process",
            (Query("sum by (worker) (rmbg_model_loads_total)", "{{worker}}"),),
            text="It rises by 1 at a worker's start. More is a process that died over a job.",
        ),
        Panel(
            "Loading the model",
            (Query("max by (worker) (rmbg_model_load_seconds)", "{{worker}}"),),
            "s",
        ),
        Panel(
            "GPU memory",
            (
                Query('rmbg_gpu_memory_bytes{memory="used"}', "{{worker}} used"),
                Query('rmbg_gpu_memory_bytes{memory="total"}', "{{worker}} total"),
            ),
            "bytes",
            gpu=True,
        ),
        Panel(
            "GPU utilisation",
            (Query("rmbg_gpu_utilisation", "{{worker}}"),),
            "percentunit",
            gpu=True,
        ),
    ),
)

QUEUES: Final = Dashboard(
    "rmbg-queues",
    "rmbg: queues",
    (
        Panel(
            "Jobs that wait, by queue",
            (Query(f"sum by (queue) ({_once('rmbg_queue_depth')})", "{{queue}}"),),
        ),
        Panel(
            "Jobs that wait, by priority",
            (Query(f"sum by (priority) ({_once('rmbg_queue_depth')})", "{{priority}}"),),
        ),
        Panel(
            "Waiting or running",
            (
                Query(_once("rmbg_pending"), "waiting or running"),
                Query(_once("rmbg_processing"), "running"),
            ),
            text="At RMBG_MAX_PENDING, uploads are answered with 503.",
        ),
        Panel("Longest wait now", (Query(_once("rmbg_oldest_queued_seconds"), "oldest"),), "s"),
        Panel(
            "Messages in the broker's lists",
            (Query(_once("celery_queue_length"), "{{queue_name}}"),),
        ),
        Panel(
            "Runs",
            (
                _count("rmbg_attempts_total"),
                _count("rmbg_crashes_total"),
                _count("rmbg_losses_total"),
                _count("rmbg_duplicates_refused_total"),
            ),
            "ops",
            "Crashes and losses are tried again; duplicates change nothing.",
        ),
        Panel(
            "Set going again by the reconciler",
            (Query(f"{_once(_rate('rmbg_recovered_total'))} or vector(0)", "{{by}}"),),
            "ops",
        ),
        Panel("Dead letters", (Query(_once("rmbg_dead_letters"), "dead letters"),)),
    ),
)

WEBHOOKS: Final = Dashboard(
    "rmbg-webhooks",
    "rmbg: webhooks",
    (
        Panel(
            "Attempts by their outcome",
            (Query(f"{_once(_rate('rmbg_webhook_attempts_total'))} or vector(0)", "{{outcome}}"),),
            "ops",
        ),
        Panel("Deliveries to be sent", (Query(_once("rmbg_webhook_pending"), "pending"),)),
    ),
)

DASHBOARDS: Final = (SERVICE, WORKERS, QUEUES, WEBHOOKS)
