"""The service's own Celery application, with a model whose device fails on command."""

from tasks.app import create_celery
from tasks.settings import Settings
from tasks.worker.celery_tasks import RemovalTask
from tests.support.faulty_gpu import load_on_faulty_device

app = create_celery(Settings.load())
app.conf.include = [*app.conf.include, __name__]  # for the child, which is a new process
RemovalTask.loader = staticmethod(load_on_faulty_device)
