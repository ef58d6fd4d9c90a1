"""The manifest of a classifier's model folder."""

from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from service.manifest import Manifest
from service.tokenizer import Tokenizer, TokenLevel


class ClassifyManifest(Manifest):
    """A classifier of series, or of texts.

    Graph inputs, besides the state: of series `values` float64 (B, T, F), unscaled, anything finite where missing, and
    `mask` float32 (B, T, F), 1 = observed, 0 = missing; of texts `tokens` int64 (B, T), indices into `vocabulary`;
    `lengths` int64 (B,), each at least 1: row b uses its first lengths[b] steps; `per_step` bool (): whether to compute
    `logits_all`. Outputs: `logits` float32 (B, C), the scores of the classes after each row's last step, whose softmax
    are calibrated probabilities; `logits_all` float32 (B, T, C), after every step (T = 0 without `per_step`).

    With two `directions`, layers also read the sequence from its end: each sequence comes whole, in one call of at most
    `max_steps`, there is no state, and no `logits_all`.
    """

    kind: Literal["classify"] = "classify"
    classes: tuple[str, ...] = Field(min_length=2, description="in the order of axis C")
    features: tuple[str, ...] = Field(default=(), description="of series: names in the order of axis F")
    unit: TokenLevel = Field(default="character", description="of texts: what a token is")
    vocabulary: tuple[str, ...] = Field(default=(), description="of texts: id -> token; id 0, the unknown one, is ''")
    replacements: dict[str, str] = Field(default={}, description="characters of texts to rewrite before tokenizing")
    directions: Literal[1, 2] = 1

    @model_validator(mode="after")
    def _reads_one_form(self) -> "ClassifyManifest":
        if bool(self.features) == bool(self.vocabulary):
            raise ValueError("either features or a vocabulary")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must not repeat")
        if (self.directions == 1) != bool(self.graph.state):
            raise ValueError("a model of one direction has a state, one of two has none")
        return self

    @property
    def categories(self) -> dict[str, tuple[str, ...]]:
        """No feature is categorical."""
        return {}

    @property
    def reads_text(self) -> bool:
        """Whether it classifies texts, not series."""
        return not self.features

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of this vocabulary."""
        return Tokenizer(self.vocabulary, self.unit, self.replacements)
