"""Measures a model folder on data it never saw, beside baselines on the same data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.baselines import Window, forecast_baselines, score_forecasts
from training.inference import CharacterModel, ForecastModel
from training.series_data import DataError, read_series
from training.text_data import Vocabulary, normalise, read_texts
from training.train_forecast import HISTORY_LIMIT


def evaluate_forecaster(
    folder: Path, data: Sequence[Path], target: str | None, limit: int, baselines: bool
) -> dict[str, dict[str, float]]:
    """Forecast the last `horizon` values of each series (of at most `limit` of them, evenly spaced) from all before.

    Raises:
        DataError: no series is longer than the model's horizon.
    """
    models = ForecastModel.open(folder)
    manifest = next(iter(models.values())).manifest
    horizon, levels = manifest.horizon, manifest.quantile_levels
    target = target or (manifest.target if len(manifest.features) > 1 else None)
    series, _ = read_series(data, target, manifest.features[1:])
    windows = [
        Window(s.id, s.values[-HISTORY_LIMIT - horizon : -horizon], s.values[-horizon:, 0], s.season)
        for s in series
        if np.isfinite(s.values[:-horizon, 0]).sum() > 1 and np.isfinite(s.values[-horizon:, 0]).any()
    ]
    if not windows:
        raise DataError(f"no series is longer than the model's horizon of {horizon} values")
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(limit, len(windows))).astype(int))
    windows = [windows[i] for i in chosen]
    forecasts = {name: model.forecast([w.history for w in windows]) for name, model in models.items()}
    forecasts |= forecast_baselines(windows, horizon, levels, fitted=baselines)
    return {name: score_forecasts(windows, quantiles, levels) for name, quantiles in forecasts.items()}


def evaluate_text(folder: Path, data: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Bits per character over whole documents, each read once from its start."""
    models = CharacterModel.open(folder)
    manifest = next(iter(models.values())).manifest
    vocabulary = Vocabulary(manifest.vocabulary)
    documents = [vocabulary.encode(normalise(text, manifest.replacements)) for text in read_texts(data)]
    unknown = sum(int((document == 0).sum()) for document in documents)
    return {
        name: {
            "bits_per_character": model.bits_per_character(documents),
            "characters": float(sum(map(len, documents))),
            "unknown_characters": float(unknown),
        }
        for name, model in models.items()
    }
