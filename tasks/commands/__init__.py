"""`celery -A tasks.app jobs …`: what an operator does with jobs and workers."""
