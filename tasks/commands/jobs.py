"""The group `jobs` of the celery command line, found by its entry point."""

import click

from tasks.commands.changing import cancel, purge, requeue
from tasks.commands.dead import dead
from tasks.commands.fleet import drain, undrain, workers
from tasks.commands.listing import list_jobs, show
from tasks.commands.stuck import stuck


@click.group("jobs")
def jobs() -> None:
    """Look after the jobs and the workers that run them.

    The records say what is true, and messages only carry ids: use these commands instead of
    `celery purge` and `celery control revoke`.
    """


for _command in (list_jobs, show, requeue, cancel, purge, dead, stuck, drain, undrain, workers):
    jobs.add_command(_command)
