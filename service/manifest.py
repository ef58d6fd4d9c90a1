"""What a model folder says about itself: the one contract between training (writes it) and the service (reads it).

`models/<name>/<version>/manifest.json` is a `ForecastManifest` or a `TextManifest`. This module imports nothing of ours
and knows nothing of PyTorch, ONNX Runtime or HTTP.
"""

import errno
import hashlib
import math
import os
import re
import stat
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 2**20
"""A vocabulary of a million words is a quarter of it."""
NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"

MAX_SEQUENCE_BYTES = 16 * 2**20
"""Most that one sequence may take: its state, and its inputs and its outputs of one step. A hundred are in one call of
the graph, and a state has to fit into a request; that of a model of a million words takes 5 MB."""

DType = Literal["float32", "float64", "int64", "uint8", "bool"]
ITEM_BYTES: dict[DType, int] = {"float32": 4, "float64": 8, "int64": 8, "uint8": 1, "bool": 1}
Size = Annotated[int, Field(gt=0)]
MAX_AXES = 8

Unit = Literal["character", "word"]
"""What a token of a text model is."""

WORD_PATTERN = r" ?<unk>| ?[^\W_]+(?:'[^\W_]+)*| ?[^\w\s]|_|\s"
"""The pieces of a text in a word model: a word or a mark carries the space before it, so that the text is their
concatenation. Every character of any text is in one of them."""
UNKNOWN_WORDS = frozenset({"<unk>", " <unk>"})
"""How a text for a word model may write the unknown word, token 0."""

COUNTS = "counts"
"""The state of a graph that decodes which begins anew with each request: no part of what a sequence carries on."""

PER_STEP_OUTPUTS = frozenset({"logits_all", "one_step"})
"""Outputs with an axis T: computed only if the input `per_step` says so."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tensor(_Frozen):
    """An input or output of a graph. `shape` leaves out axis 0, which is the batch where nothing else is said; "T" is
    time, "B" the batch."""

    name: str
    dtype: DType
    shape: tuple[Size | Literal["T", "B"], ...] = Field(max_length=MAX_AXES)

    @property
    def step_bytes(self) -> int:
        """Of one step of one sequence."""
        return ITEM_BYTES[self.dtype] * math.prod(size for size in self.shape if isinstance(size, int))


class State(_Frozen):
    """A recurrent state tensor: what a sequence carries from one call to the next.

    `shape` is per sequence (the batch axis, axis 0, left out) and constant. The graph takes it as input `name` and
    returns it as output `output`. A fresh sequence starts with every element at `initial`.
    """

    name: str
    output: str
    dtype: DType
    shape: tuple[Size, ...] = Field(max_length=MAX_AXES)
    initial: float = 0.0

    @property
    def sequence_bytes(self) -> int:
        """Of one sequence."""
        return ITEM_BYTES[self.dtype] * math.prod(self.shape)


class Weights(_Frozen):
    """A file that holds large constants of several graphs once (ONNX's external data), beside the manifest."""

    file: str = Field(pattern=r"^[A-Za-z0-9_.-]+\.weights$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Graph(_Frozen):
    """The ONNX file, beside the manifest. If its constants are in `weights`, their sha256 stands in its metadata as
    `weights_sha256`, so that its own is that of the whole."""

    file: str = Field(pattern=r"^[A-Za-z0-9_.-]+\.onnx$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    weights: Weights | None = None
    opset: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: tuple[State, ...]
    max_steps: int = Field(gt=0, description="most time steps in one call of the graph; longer input goes in chunks")

    @property
    def state_bytes(self) -> int:
        """Of one sequence."""
        return sum(state.sequence_bytes for state in self.state)

    @model_validator(mode="after")
    def _a_sequence_fits_into_memory(self) -> "Graph":
        inputs, outputs = (sum(tensor.step_bytes for tensor in tensors) for tensors in (self.inputs, self.outputs))
        for what, size in (("state", self.state_bytes), ("inputs", inputs), ("outputs", outputs)):
            if size > MAX_SEQUENCE_BYTES:
                raise ValueError(f"{size} bytes of {what} for one sequence, at most {MAX_SEQUENCE_BYTES} are served")
        return self


class Int8(_Frozen):
    """The same network with its products in int8.

    `loss`: the relative loss of quality on the test part (of bits per character, or of the scaled quantile loss), None
    where there was no test part. `speedup`: float32's time over its own, for a batch of 16 on the machine that exported
    it. `default`: whether it is what is served, unless the operator says otherwise.
    """

    graph: Graph
    decode: Graph | None = Field(default=None, description="of a text model")
    loss: float | None
    speedup: float = Field(gt=0)
    default: bool


class DataSource(_Frozen):
    """A file that the model was trained on, or that its weights were chosen or measured on."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Provenance(_Frozen):
    """How the model came to be, so that it can be made again."""

    command: str
    seed: int
    created_at: str = Field(description="UTC, ISO 8601")
    duration_seconds: float = Field(ge=0)
    data: tuple[DataSource, ...]
    cell: str
    layers: int = Field(gt=0)
    hidden: int = Field(gt=0)
    parameters: int = Field(gt=0)
    versions: dict[str, str] = Field(description="python, torch, onnx, carry")

    @field_validator("created_at")
    @classmethod
    def _is_a_time(cls, created_at: str) -> str:
        datetime.fromisoformat(created_at)
        return created_at


class _Model(_Frozen):
    format: Literal[2] = 2
    name: str = Field(pattern=NAME_PATTERN)
    version: int = Field(ge=1)
    description: str = ""
    graph: Graph
    int8: Int8 | None = None
    metrics: dict[str, float] = Field(description="on the test part; the card says how they were measured")
    provenance: Provenance


class ForecastManifest(_Model):
    """A forecaster of numeric series.

    Graph inputs, besides the state: `values` float64 (B, T, F), unscaled, anything finite where missing; `mask`
    float32 (B, T, F), 1 = observed, 0 = missing; `lengths` int64 (B,), each at least 1: row b uses its first
    lengths[b] steps; `per_step` bool (): whether `one_step` is wanted. Feature 0 is the target. A categorical feature's
    values are indices into its `categories`, any other category is missing.
    With K features `known_ahead`, also `ahead` float64 (B, T, K), what they are at the step after each, `ahead_mask`
    float32 (B, T, K), `future` float64 (B, H, K), what they are in the H steps after the last, `future_mask` (B, H, K).
    With a `longest_season`, one state tensor is `season` int64 (2,): values per season, and per second, longer season
    (such as 24 and 168 of hourly values), 1 = none: what a caller tells. It is set in a fresh state and stays.
    A state tensor `uneven` float64 (1,) is 0 as long as all values of the target were whole numbers of at least 0; the
    quantiles are then never below 0.
    Outputs: `quantiles` float64 (B, H, Q), unscaled, ascending along Q, for the H values after the last step;
    `one_step` float64 (B, T, Q), the quantiles of the value after each step given (T = 0 if not wanted); perhaps
    `seasons` int64 (B, 2), after how many values the series repeats itself, as far as the forecast goes by it: the
    shortest such number and the one that weighs most, 1 = none.
    """

    kind: Literal["forecast"] = "forecast"
    features: tuple[str, ...] = Field(min_length=1, description="names in the order of axis F; the first is the target")
    horizon: int = Field(gt=0, description="H: values forecast by one call of the graph")
    known_ahead: tuple[str, ...] = Field(default=(), description="features whose future values a request may bring")
    categories: dict[str, tuple[str, ...]] = Field(default={}, description="of categorical features, by feature")
    longest_season: int = Field(default=0, ge=0, description="values in the longest season; 0: it takes no season")
    quantile_levels: tuple[float, ...] = Field(min_length=1, description="ascending, each in (0, 1), 0.5 among them")
    context: int = Field(gt=0, description="time steps per training window; at least so many give the best forecasts")

    @model_validator(mode="after")
    def _levels_ascend(self) -> "ForecastManifest":
        levels = self.quantile_levels
        if 0.5 not in levels or list(levels) != sorted(set(levels)) or not 0 < levels[0] <= levels[-1] < 1:
            raise ValueError("quantile_levels must ascend strictly within (0, 1) and hold 0.5")
        return self

    @model_validator(mode="after")
    def _covariates_are_features(self) -> "ForecastManifest":
        if not {*self.known_ahead, *self.categories} <= {*self.features[1:]}:
            raise ValueError("known_ahead and categories must name features other than the target")
        return self

    @model_validator(mode="after")
    def _graphs_have_what_it_says(self) -> "ForecastManifest":
        wanted = {"ahead", "ahead_mask", "future", "future_mask"} if self.known_ahead else set()
        for graph in (self.graph, *([self.int8.graph] if self.int8 else [])):
            if self.longest_season and "season" not in {state.name for state in graph.state}:
                raise ValueError("a longest_season needs the state tensor season")
            if not wanted <= {tensor.name for tensor in graph.inputs}:
                raise ValueError(f"known_ahead needs the inputs {', '.join(sorted(wanted))}")
        return self

    @property
    def tells_seasons(self) -> bool:
        """Whether its graphs tell by which seasons a forecast goes."""
        return any(tensor.name == "seasons" for tensor in self.graph.outputs)

    @property
    def target(self) -> str:
        """The name of the feature that is forecast."""
        return self.features[0]


class TextManifest(_Model):
    """A character model, or a word model: of either, a text is the concatenation of its tokens' pieces.

    Graph inputs, besides the state: `tokens` int64 (B, T), indices into `vocabulary`, or 0 for any other piece;
    `lengths` int64 (B,), each at least 1; `per_step` bool (): whether `logits_all` is wanted.
    Outputs: `logits` float32 (B, V), scores of the next token after each row's last; `logits_all` float32 (B, T, V),
    after every token (T = 0 if not wanted). Token 0 is the unknown character or word: it can be read but is never
    generated.

    The graph `decode` takes N steps at once, each row sampling its next token itself. Its state is that of the other
    graph, with `logits` (B, V), from which the next token is sampled, `seen` bool (B, V), which tokens occurred before
    those that the request samples, and `counts` (B, V), how often it has sampled each, at first 0. Inputs: `uniforms`
    float32 (N, B) in [0, 1); `given_tokens` int64 (N, B), the token to take instead of a sampled one, or -1; `bias`
    (B, V), added to the scores; `temperature`, `top_k`, `top_p`, `min_p`, `penalty`, `frequency_penalty`,
    `presence_penalty`, each (B, 1), and `controlled` bool (), whether any row uses one of the last six
    (service/text/sampling.py): only then are tokens counted. Outputs: `tokens` int64 (N, B), and `scores` (N, B, V),
    the logits that each was sampled from.
    """

    kind: Literal["text"] = "text"
    decode: Graph
    unit: Unit = Field(default="character", description="what a token is; see WORD_PATTERN")
    vocabulary: tuple[str, ...] = Field(min_length=2, description="token -> piece of text; token 0, unknown, is ''")
    replacements: dict[str, str] = Field(
        default={}, description="characters rewritten before tokenising (typographic quotes, dashes, spaces)"
    )
    context: int = Field(gt=0, description="tokens per training window (truncation of backpropagation)")

    @model_validator(mode="after")
    def _vocabulary_is_of_its_unit(self) -> "TextManifest":
        if self.vocabulary[0] != "":
            raise ValueError("vocabulary must begin with '' (unknown)")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError("vocabulary must not repeat a piece")
        if self.unit == "character":
            if any(len(piece) != 1 for piece in self.vocabulary[1:]):
                raise ValueError("after '', the vocabulary of a character model must be single characters")
        elif not all(map(re.compile(WORD_PATTERN).fullmatch, self.vocabulary[1:])) or UNKNOWN_WORDS & {
            *self.vocabulary
        }:
            raise ValueError("after '', the vocabulary of a word model must be pieces of text as WORD_PATTERN has them")
        return self

    @model_validator(mode="after")
    def _replacements_are_of_characters(self) -> "TextManifest":
        if any(len(old) != 1 for old in self.replacements):
            raise ValueError("replacements must be of single characters")
        return self


Manifest = Annotated[ForecastManifest | TextManifest, Field(discriminator="kind")]
_adapter: TypeAdapter[ForecastManifest | TextManifest] = TypeAdapter(Manifest)


def read_manifest(folder: Path) -> ForecastManifest | TextManifest:
    """Read and validate a model folder's manifest.

    Raises:
        OSError: it cannot be read.
        pydantic.ValidationError: it is not a manifest (this is a `ValueError`).
    """
    # Without O_NONBLOCK, to open a pipe waits for whoever writes to it.
    descriptor = os.open(folder / MANIFEST_FILE, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        if about.st_size > MAX_MANIFEST_BYTES:
            raise OSError(errno.EFBIG, f"it is larger than {MAX_MANIFEST_BYTES} bytes")
        return _adapter.validate_json(file.read())


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
