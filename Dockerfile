# The service and its models, without PyTorch, without a compiler, not as root.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/carry
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY service service
COPY training training
RUN /opt/carry/bin/pip install --no-cache-dir --constraint constraints.txt ".[redis]"

FROM python:3.11-slim
RUN useradd --system --create-home --uid 10001 carry && mkdir /data && chown carry /data
COPY --from=build /opt/carry /opt/carry
COPY models /models
ENV PATH=/opt/carry/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CARRY_HOST=0.0.0.0 \
    CARRY_PORT=8000 \
    CARRY_MODELS_DIR=/models \
    CARRY_LOG_FORMAT=json
USER carry
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['CARRY_PORT']}/health/ready\", timeout=2)"]
CMD ["carry", "serve"]
