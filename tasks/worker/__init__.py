"""What runs inside Celery's worker processes; only `tasks.commands` imports from it outside."""
