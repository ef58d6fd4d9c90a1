"""A forecaster whose answers are plain arithmetic on its inputs, so that tests can compute the answers.

Its features are y, price and day (of three categories); price and day are known ahead. The quantile at level q, h steps
after the last value, is the sum of: all y so far, 1e3 times the season, 1e6 times the longer season, 1e-2 times the
price and 1e-4 times the day of that step, and q - 0.5. The quantile one step after each value is the same.
"""

from pathlib import Path

import onnx

from service.forecast.manifest import ForecastManifest
from service.manifest import Graph, Provenance, State, Tensor, sha256_of

LEVELS = (0.1, 0.5, 0.9)
HORIZON = 4
DAYS = ("work", "feast", "fast")
GRAPH = """
<ir_version: 10, opset_import: ["": 21]>
echo (double[B, T, 3] values, float[B, T, 3] mask, int64[B] lengths, bool per_step, double[B, T, 2] ahead,
      float[B, T, 2] ahead_mask, double[B, 4, 2] future, float[B, 4, 2] future_mask, double[B, 1] total,
      int64[B, 2] season)
  => (double[B, 4, 3] quantiles, double[B, T, 3] one_step, double[B, 1] total_out, int64[B, 2] season_out)
  <double[1, 1, 3] offsets = {-0.4, 0.0, 0.4}, double[2, 1] price_and_day = {0.01, 0.0001}, int64[1] target = {0},
   double[2, 1] seasons = {1000.0, 1000000.0}, int64 zero = {0}, int64 one = {1}, int64[1] second = {1},
   int64[1] third = {2}>
{
  y = Gather <axis = 2> (values, target)
  y_mask = Gather <axis = 2> (mask, target)
  y_seen = Cast <to = 11> (y_mask)
  shape = Shape (values)
  steps = Gather (shape, one)
  range = Range (zero, steps, one)
  last = Unsqueeze (lengths, second)
  inside = Less (range, last)
  inside_number = Cast <to = 11> (inside)
  inside_column = Unsqueeze (inside_number, third)
  y_there = Mul (y, y_seen)
  y_inside = Mul (y_there, inside_column)
  so_far = CumSum (y_inside, one)
  total_column = Unsqueeze (total, third)
  running = Add (so_far, total_column)
  sum = ReduceSum <keepdims = 0> (y_inside, second)
  total_out = Add (total, sum)
  season_out = Identity (season)
  season_number = Cast <to = 11> (season)
  season_sum = MatMul (season_number, seasons)
  season_column = Unsqueeze (season_sum, third)
  future_seen = Cast <to = 11> (future_mask)
  future_there = Mul (future, future_seen)
  future_sum = MatMul (future_there, price_and_day)
  end = Unsqueeze (total_out, third)
  end_season = Add (end, season_column)
  end_future = Add (end_season, future_sum)
  quantiles = Add (end_future, offsets)
  ahead_seen = Cast <to = 11> (ahead_mask)
  ahead_there = Mul (ahead, ahead_seen)
  ahead_sum = MatMul (ahead_there, price_and_day)
  running_season = Add (running, season_column)
  running_ahead = Add (running_season, ahead_sum)
  one_step = Add (running_ahead, offsets)
}
"""


def write_echo(models: Path) -> Path:
    """Write the model folder."""
    folder = models / "echo" / "1"
    folder.mkdir(parents=True)
    onnx.save(onnx.parser.parse_model(GRAPH), folder / "model.onnx")
    per_step = {"values": ("float64", 3), "mask": ("float32", 3), "ahead": ("float64", 2), "ahead_mask": ("float32", 2)}
    graph = Graph(
        file="model.onnx",
        sha256=sha256_of(folder / "model.onnx"),
        opset=21,
        inputs=(
            *(Tensor(name=name, dtype=dtype, shape=("T", size)) for name, (dtype, size) in per_step.items()),
            Tensor(name="lengths", dtype="int64", shape=()),
            Tensor(name="per_step", dtype="bool", shape=()),
            Tensor(name="future", dtype="float64", shape=(HORIZON, 2)),
            Tensor(name="future_mask", dtype="float32", shape=(HORIZON, 2)),
        ),
        outputs=(
            Tensor(name="quantiles", dtype="float64", shape=(HORIZON, 3)),
            Tensor(name="one_step", dtype="float64", shape=("T", 3)),
        ),
        state=(
            State(name="total", output="total_out", dtype="float64", shape=(1,)),
            State(name="season", output="season_out", dtype="int64", shape=(2,), initial=1),
        ),
        max_steps=4096,
    )
    manifest = ForecastManifest(
        name="echo",
        version=1,
        graph=graph,
        metrics={},
        provenance=Provenance(
            command="none", seed=0, created_at="2026-01-01", duration_seconds=0, data=(), cell="none", layers=1,
            hidden=1, parameters=1, versions={},
        ),
        features=("y", "price", "day"),
        known_ahead=("price", "day"),
        categories={"day": DAYS},
        horizon=HORIZON,
        quantile_levels=LEVELS,
        context=8,
        longest_season=24,
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder
