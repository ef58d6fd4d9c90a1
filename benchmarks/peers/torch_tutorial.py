"""The tutorial server: FastAPI around a PyTorch module, one request at a time.

With PyTorch's default number of threads: on two cores one thread made neither texts nor forecasts faster. Texts without
oneDNN, which packs an LSTM's weights anew at each step (300 characters/s with it, 425 without); forecasts with it.
"""

import torch
from fastapi import FastAPI

from benchmarks.peers.interface import ForecastAnswer, ForecastBody, GenerateAnswer, GenerateBody, serve
from benchmarks.peers.onnx_models import MODELS
from training.onnx.weights import read_forecaster, read_text_model

text_model, text_manifest = read_text_model(MODELS / "text/1")
text_model.eval()
forecaster = read_forecaster(MODELS / "forecast/2")
characters = text_manifest.vocabulary
token_of = {character: token for token, character in enumerate(characters)}
app = FastAPI()


@app.post("/generate")
async def generate(body: GenerateBody) -> GenerateAnswer:
    """Read the prompt, then draw one character at a time, the hidden state carried."""
    generator = torch.Generator().manual_seed(body.seed)
    tokens = torch.tensor([[token_of.get(character, 0) for character in body.prompt]])
    state = text_model.initial_state(1)
    text = ""
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # typed as its descriptor
    with torch.inference_mode():
        for _ in range(body.max_length):
            logits, state = text_model.predict(tokens, state)
            probabilities = torch.softmax(logits[0, -1, 1:] / body.temperature, dim=-1)
            token = 1 + int(torch.multinomial(probabilities, 1, generator=generator))
            text += characters[token]
            tokens = torch.tensor([[token]])
    return GenerateAnswer(text=text)


@app.post("/forecast")
async def forecast(body: ForecastBody) -> ForecastAnswer:
    """The quantiles after the last value."""
    values = torch.tensor(body.series, dtype=torch.float64)[None, :, None]
    torch.backends.mkldnn.enabled = True  # type: ignore[assignment]  # typed as its descriptor
    with torch.inference_mode():
        prediction = forecaster.predict(values, torch.ones_like(values), forecaster.initial_state(1))
    rows = prediction.quantiles[0, : body.horizon].T.tolist()
    return ForecastAnswer(
        quantiles={f"{level:g}": row for level, row in zip(forecaster.quantile_levels, rows, strict=True)}
    )


if __name__ == "__main__":
    serve(app)
