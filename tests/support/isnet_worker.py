"""The service's own Celery application: `celery -A tests.support.isnet_worker`.

It takes the file that RMBG_MODEL_PATH names for IS-Net's, whose own cannot be fetched by tests.
"""

from dataclasses import replace
from types import MappingProxyType

from inference.models import registry
from inference.models.weights import file_sha256
from tasks.app import create_celery
from tasks.settings import Settings

_ISNET = registry.get_spec("isnet-general-use")
_file = Settings.load().model_file(_ISNET.file_name)
_known = replace(_ISNET, size_bytes=_file.stat().st_size, sha256=file_sha256(_file))
registry.MODELS = MappingProxyType({**registry.MODELS, _ISNET.name: _known})

app = create_celery(Settings.load())
app.conf.include = [*app.conf.include, __name__]
