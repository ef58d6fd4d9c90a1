# The service and its models, without PyTorch, without a compiler, not as root.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/carry
COPY pyproject.toml setup.py MANIFEST.in constraints.txt README.md LICENSE ./
COPY carry carry
COPY service service
COPY training training
# A wheel has these two, so its build needs them here; the image has all, in /models.
COPY models/forecast models/forecast
COPY models/text-fast models/text-fast
RUN /opt/carry/bin/pip install --no-cache-dir --constraint constraints.txt ".[redis]"

FROM python:3.11-slim
# tini: as process 1, which has no default for any signal, Python would lose a SIGTERM while it starts itself.
RUN apt-get update && apt-get install --yes --no-install-recommends tini && rm -rf /var/lib/apt/lists/*
# Any user of group 0 may write to /data, as some clusters choose one at random.
RUN useradd --system --create-home --uid 10001 --gid 0 carry && mkdir /data && chown 10001:0 /data && chmod 2775 /data
COPY --from=build /opt/carry /opt/carry
COPY models /models
ENV PATH=/opt/carry/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CARRY_HOST=0.0.0.0 \
    CARRY_PORT=8000 \
    CARRY_MODELS_DIR=/models \
    CARRY_LOG_FORMAT=json \
    ORT_DISABLE_TELEMETRY=1
USER 10001:0
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-ISc", "import os, socket; s = socket.create_connection(('127.0.0.1', int(os.environ['CARRY_PORT'])), 2); s.sendall(b'GET /health/ready HTTP/1.0\\r\\n\\r\\n'); assert s.recv(99).split()[1] == b'200'"]
ENTRYPOINT ["tini", "--"]
CMD ["carry", "serve"]
