#!/bin/sh
# Makes .venv of the wheels in build/card, and of the torch that python3 has there; without network:
#   sh benchmarks/card-install.sh
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -m venv .venv
install="./.venv/bin/python -m pip install -q --no-index --no-deps --disable-pip-version-check"
$install build/card/*/*.whl
# Behind the own packages, so that their versions count.
"$python" -c 'from importlib.util import find_spec; from pathlib import Path; print(Path(find_spec("torch").origin).parents[1])' \
  >"$(./.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth"
$install --no-build-isolation -e .
./.venv/bin/python -c 'import torch; print(torch.__version__, "CUDA" if torch.cuda.is_available() else "no CUDA")'
