"""What runs inside Celery's worker processes; only `tasks.cli` imports from it outside."""
