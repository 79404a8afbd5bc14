# A model worker. EXTRAS=torch for RMBG-2.0 and BiRefNet on a GPU, EXTRAS=cpu for u2netp.
# The image holds no weights: they are mounted as a volume, /models.
# The base image has no digest: pin one that you have checked, --build-arg PYTHON_IMAGE=python:3.12-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG EXTRAS=torch
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY deploy/docker/locks locks
COPY inference inference
COPY tasks tasks
COPY api api
COPY deploy deploy
COPY clients/python/rmbg_client clients/python/rmbg_client
# Nothing is installed whose hash is not in a lock file (`make lock`), the tools of the build included.
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes -r locks/build.txt \
    && /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python -m venv /opt/rmbg \
    && /opt/rmbg/bin/pip install --no-cache-dir --no-compile --require-hashes -r locks/${EXTRAS}.txt \
    && /opt/rmbg/bin/pip install --no-cache-dir --no-compile --no-deps --no-index /wheels/*.whl \
    && /opt/rmbg/bin/pip uninstall -y pip

FROM ${PYTHON_IMAGE}
ARG EXTRAS=torch
# torch.compile and Triton build their launchers with a C compiler. Debian removes a version when it has a newer one.
# hadolint ignore=DL3008
RUN if [ "${EXTRAS}" = torch ]; then apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*; fi
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin rmbg \
    && install --directory --owner=10001 --group=10001 /models \
    && install --directory --owner=10001 --group=10001 --mode=0700 /compiled
COPY --from=build /opt/rmbg /opt/rmbg
ENV PATH=/opt/rmbg/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 RMBG_MODEL_DIR=/models \
    RMBG_COMPILE_DIR=/compiled/torch TRITON_CACHE_DIR=/compiled/triton HOME=/tmp
USER 10001:10001
WORKDIR /tmp
CMD ["celery", "-A", "tasks.app", "worker", "--help"]
