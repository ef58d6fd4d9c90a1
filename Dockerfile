# The service and its models: no PyTorch, no compiler, no pip, no root.
#
#   docker build --tag carry .
#
# With an index of your own, or a proxy that re-signs: --secret id=pip,src=pip.conf --secret id=ca,src=ca.pem
# Neither file stays in a layer. podman and buildah drop the HEALTHCHECK, unless they build with --format docker.

FROM python:3.11-slim AS dependencies
WORKDIR /src
# The tools build; the image gets /opt/carry alone.
RUN python -m venv /opt/tools && python -m venv --without-pip /opt/carry
COPY constraints.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && /opt/tools/bin/pip install --no-cache-dir setuptools==84.2.1 cyclonedx-bom==7.5.0 \
    && /opt/tools/bin/pip --python /opt/carry/bin/python install --no-cache-dir --requirement constraints.txt \
    && find /opt/carry -type d -name tests -prune -exec rm -r {} +

FROM dependencies AS code
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY carry carry
COPY service service
COPY training training
# A wheel has these two, so its build needs them here; the image has all, in /models.
COPY models/forecast models/forecast
COPY models/text-fast models/text-fast
# Into a root of its own, so that a change of the code changes a small layer only. Then beside the dependencies, to
# check that none is missing, and to list what there is.
RUN /opt/tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /opt/tools/bin/pip --python /opt/carry/bin/python install --no-cache-dir --no-deps --root /code /wheel/*.whl \
    && rm -r /code/opt/carry/lib/python3.11/site-packages/carry/models \
    && cp -a /code/. / \
    && /opt/tools/bin/pip --python /opt/carry/bin/python check \
    && /opt/tools/bin/cyclonedx-py environment --output-reproducible --output-file /code/opt/carry/sbom.cdx.json \
       /opt/carry/bin/python

FROM python:3.11-slim
LABEL org.opencontainers.image.title="carry" \
      org.opencontainers.image.description="Serves the predictions of recurrent networks over HTTP" \
      org.opencontainers.image.version="0.3.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# tini: as process 1, which has no default for any signal, Python would lose a SIGTERM while it starts itself.
RUN apt-get update && apt-get install --yes --no-install-recommends tini && rm -rf /var/lib/apt/lists/*
# Any user of group 0 may write to /data, as some clusters choose one at random.
RUN useradd --no-log-init --no-create-home --home-dir /data --uid 10001 --gid 0 carry \
    && mkdir /data && chown 10001:0 /data && chmod 2775 /data
COPY --from=dependencies /opt/carry /opt/carry
# The base image has no compiled modules of the standard library, and no user may write them later: each start would
# compile what these import.
RUN ["/opt/carry/bin/python", "-c", "import fastapi, httpx, multiprocessing.connection, onnxruntime, orjson, prometheus_client, redis.asyncio, sqlite3, structlog, typer, uvicorn, uvloop, zstandard"]
COPY models /models
COPY deploy/image/ready /usr/local/bin/ready
COPY --from=code /code /
ENV PATH=/opt/carry/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CARRY_HOST=0.0.0.0 \
    CARRY_PORT=8000 \
    CARRY_MODELS_DIR=/models \
    CARRY_LOG_FORMAT=json \
    ORT_DISABLE_TELEMETRY=1
USER 10001:0
WORKDIR /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["ready"]
ENTRYPOINT ["tini", "--", "carry"]
CMD ["serve"]
