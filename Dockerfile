# Busway in a container. It listens on all addresses, so it needs a key before it starts:
#
#   docker build -t busway .
#   docker volume create busway-data
#   docker run --rm -v busway-data:/data busway busway keys create first --create
#   docker run -p 8000:8000 -v busway-data:/data -v ./handlers:/handlers:ro busway
#
# An image of yours adds handlers and what they import (examples/deploy/Dockerfile):
#
#   FROM busway
#   COPY requirements.txt .
#   RUN pip install -r requirements.txt
#   COPY handlers /handlers
#
# /data holds the database, /handlers the Python files with handler code. Set options of
# `busway serve` as BUSWAY_... variables: -e BUSWAY_POOL=thread. `docker stop` drains the gateway; give
# it more time than BUSWAY_DRAIN_TIMEOUT: docker stop --time 40.

FROM python:3.13-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/busway
WORKDIR /src
# In a layer of its own: it is rebuilt only when the lock changes.
COPY requirements.lock ./
RUN /opt/busway/bin/pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY migrations migrations
RUN /opt/busway/bin/pip install --no-deps --no-build-isolation . \
    && /opt/busway/bin/pip uninstall --yes setuptools \
    && /opt/busway/bin/python -m compileall -q /opt/busway/lib \
    && /opt/busway/bin/pip freeze --exclude busway > /opt/busway/constraints.txt

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin busway \
    && install --directory --owner=busway --group=busway /app /data /handlers
# Images that build on this one install packages as its user. They keep the versions that the gateway needs.
COPY --from=build --chown=busway:busway /opt/busway /opt/busway
ENV PATH="/opt/busway/bin:$PATH" \
    PIP_CONSTRAINT=/opt/busway/constraints.txt \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    BUSWAY_DATABASE_URL=sqlite:////data/busway.db \
    BUSWAY_HANDLERS=/handlers
USER busway
WORKDIR /app
VOLUME ["/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{p if (p := os.environ.get('BUSWAY_PORT', '')).isdecimal() else 8000}/readyz\", timeout=4)"]
CMD ["busway", "serve", "--host", "0.0.0.0"]
