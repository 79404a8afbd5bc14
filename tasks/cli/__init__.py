"""Commands of `celery -A tasks.app jobs` and `… webhooks`."""
