"""The service's own Celery application, with a model whose subject is known."""

from tasks.app import create_celery
from tasks.settings import Settings

app = create_celery(Settings.load())
app.conf.include = [*app.conf.include, "tests.support.subject_worker"]
