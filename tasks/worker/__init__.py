"""What runs inside Celery's worker processes. Nothing outside this package imports it."""
