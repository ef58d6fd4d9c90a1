"""What the FastAPI peers ask and answer: the part of Carry's interface that is measured."""

import os

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class GenerateBody(BaseModel):
    """POST /generate."""

    prompt: str
    max_length: int
    temperature: float = 1.0
    seed: int = 0
    stream: bool = False


class ForecastBody(BaseModel):
    """POST /forecast."""

    series: list[float]
    horizon: int = 24


class GenerateAnswer(BaseModel):
    """A continuation."""

    text: str


class ForecastAnswer(BaseModel):
    """Quantiles by level."""

    quantiles: dict[str, list[float]]


class Ready(BaseModel):
    """GET /health/ready."""

    status: str = "ready"


def serve(app: FastAPI) -> None:
    """Serve on the port that the benchmark gives, without a log line for each request."""

    @app.get("/health/ready")
    async def get_ready() -> Ready:
        return Ready()

    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", access_log=False)
