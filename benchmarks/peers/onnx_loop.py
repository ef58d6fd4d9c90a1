"""FastAPI around plain ONNX Runtime: a loop for each request.

Texts on the event loop with ONNX Runtime's default threads, forecasts in FastAPI's pool of threads with one thread
each: what was fastest on two cores of the four ways to combine them.
"""

from fastapi import FastAPI

from benchmarks.peers.interface import ForecastAnswer, ForecastBody, GenerateAnswer, GenerateBody, serve
from benchmarks.peers.onnx_models import OnnxForecast, OnnxText, TextRequest

text_model = OnnxText()
forecast_model = OnnxForecast(threads=1)
app = FastAPI()


@app.post("/generate")
async def generate(body: GenerateBody) -> GenerateAnswer:
    """One text, one character a step."""
    request = TextRequest(body.prompt, body.max_length, body.temperature, body.seed)
    return GenerateAnswer(text="".join(row[0] for row in text_model.generate([request])))


@app.post("/forecast")
def forecast(body: ForecastBody) -> ForecastAnswer:
    """One series."""
    return ForecastAnswer(quantiles=forecast_model.forecast([body.series], body.horizon)[0])


if __name__ == "__main__":
    serve(app)
