"""The Celery tasks, and what runs in the parent and child processes of a worker."""
