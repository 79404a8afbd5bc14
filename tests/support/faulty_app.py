"""The service's own Celery application, with a faulty model in place of a real one."""

from tasks.app import create_celery
from tasks.settings import Settings

app = create_celery(Settings.load())
app.conf.include = [*app.conf.include, "tests.support.faulty_worker"]
