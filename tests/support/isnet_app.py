"""The service's own Celery application, to whose registry a stand-in's file is IS-Net's."""

from tasks.app import create_celery
from tasks.settings import Settings

app = create_celery(Settings.load())
app.conf.include = [*app.conf.include, "tests.support.isnet_worker"]
