"""The service's own Celery application, whose model remembers what it has seen."""

from tasks.app import create_celery
from tasks.settings import Settings

app = create_celery(Settings.load())
app.conf.include = [*app.conf.include, "tests.support.remembering_worker"]
