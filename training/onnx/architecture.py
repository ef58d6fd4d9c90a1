"""The facts of a network that its weights alone do not tell, as `network.json` in its model folder.

Export writes the file; reading a network back (weights.py) begins with it. The service ignores it.
"""

from functools import singledispatch
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError
from torch import nn

from service.manifest import Frozen, Size
from training.nets.cells import Cell, Recurrent
from training.nets.forecaster import Forecaster
from training.nets.global_forecaster import HEADS, LAG_WIDTH, WIDTH, GlobalForecaster
from training.nets.series_scan import LAGS, PATCH, REGISTER
from training.nets.text import BUCKETS, FEATURE_STEPS, NGRAM_FEATURES, TextModel

NETWORK_FILE = "network.json"


class Architecture(Frozen):
    """The class of a network, and its recurrent layers; `residual`: every layer but the first adds its input to its
    output."""

    network: str
    cell: Cell
    layers: Size
    hidden: Size
    residual: bool


class TextArchitecture(Architecture):
    """Of a `TextModel`; `ngrams`: tokens of the longest n-gram with features, 0 without."""

    network: Literal["text"] = "text"
    vocabulary: Size
    embedding: Size
    ngrams: int = Field(ge=0)
    ngram_features: Size = NGRAM_FEATURES
    ngram_buckets: Size = BUCKETS
    ngram_feature_steps: Size = FEATURE_STEPS


class ForecasterArchitecture(Architecture):
    """Of a `Forecaster`, of one kind of series."""

    network: Literal["forecaster"] = "forecaster"
    features: Size
    horizon: Size
    quantile_levels: tuple[float, ...]


class GlobalForecasterArchitecture(Architecture):
    """Of a `GlobalForecaster`, of any series. `categories`: of each feature beside the target, 0 for a number;
    `known_ahead`: indices of those whose future is known."""

    network: Literal["global_forecaster"] = "global_forecaster"
    categories: tuple[int, ...]
    known_ahead: tuple[int, ...]
    horizon: Size
    quantile_levels: tuple[float, ...]
    patch: Size = PATCH
    register_length: Size = REGISTER
    lags: tuple[int, ...] = tuple(LAGS.tolist())
    lag_heads: Size = HEADS
    lag_width: Size = LAG_WIDTH
    head_width: Size = WIDTH


A = TypeVar("A", bound=Architecture)


def layers_of(recurrent: Recurrent) -> dict[str, Any]:
    """The facts of the recurrent layers."""
    return {
        "cell": recurrent.cell,
        "layers": len(recurrent.layers),
        "hidden": recurrent.hidden,
        "residual": recurrent.residual,
    }


@singledispatch
def architecture_of(network: nn.Module) -> Architecture:
    """The facts of a network. Each class of networks registers its own."""
    raise TypeError(f"nothing is known of a {type(network).__name__}")


@architecture_of.register
def _of_text(network: TextModel) -> Architecture:
    vocabulary, embedding = network.embedding.weight.shape
    ngrams = network.ngrams.longest if network.ngrams else 0
    layers = layers_of(network.recurrent)
    return TextArchitecture(**layers, vocabulary=vocabulary, embedding=embedding, ngrams=ngrams)


def _head(network: Forecaster | GlobalForecaster) -> dict[str, Any]:
    return {"horizon": network.horizon, "quantile_levels": network.quantile_levels}


@architecture_of.register
def _of_forecaster(network: Forecaster) -> Architecture:
    features = network.scaler.features
    return ForecasterArchitecture(**layers_of(network.recurrent), **_head(network), features=features)


@architecture_of.register
def _of_global_forecaster(network: GlobalForecaster) -> Architecture:
    categories, known_ahead = network.covariates.sizes, network.covariates.known_ahead
    return GlobalForecasterArchitecture(
        **layers_of(network.recurrent), **_head(network), categories=categories, known_ahead=known_ahead
    )


def write_architecture(folder: Path, architecture: Architecture) -> None:
    """Write `network.json` into a model folder."""
    (folder / NETWORK_FILE).write_text(architecture.model_dump_json() + "\n", encoding="utf-8")


class _Named(BaseModel):
    network: str


def read_architecture(folder: Path, kind: type[A]) -> A:
    """Read `network.json` of a model folder.

    Raises:
        ValueError: the folder has no such file, or the file describes another kind of network, or none.
    """
    path = folder / NETWORK_FILE
    try:
        found = _Named.model_validate_json(path.read_bytes()).network
        wanted = kind.model_fields["network"].default
        if found not in {each.model_fields["network"].default for each in Architecture.__subclasses__()}:
            raise ValueError(f"{path} describes no network of this version of Carry: {found!r}")
        if found != wanted:
            raise ValueError(f"{path} describes a network {found!r}, not {wanted!r}")
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} has no {NETWORK_FILE}, which says how its network is built: a version of Carry before 0.2.0 "
            f"wrote the folder; train the model again"
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {(error.strerror or 'not readable').lower()}") from error
    except ValidationError as error:
        [first, *_] = error.errors()
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path} describes no network of this version of Carry: {where}: {first['msg']}") from error


def check_architecture(folder: Path, architecture: Architecture, network: nn.Module) -> None:
    """Check that this version of Carry has built the network that `network.json` describes.

    Raises:
        ValueError: it has other sizes.
    """
    built = architecture_of(network).model_dump()
    for name, size in architecture.model_dump().items():
        if built[name] != size:
            raise ValueError(
                f"{folder / NETWORK_FILE}: {name} is {size}; this version of Carry knows only {built[name]}"
            )
