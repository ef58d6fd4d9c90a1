"""The manifest of a text model."""

import re
from dataclasses import replace
from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from service.manifest import Frozen, Graph, Graphs, Manifest, Precision
from service.tokenizer import UNKNOWN_WORDS, WORD_PATTERN, Tokenizer, TokenLevel, pre_tokenize


class Pairs(Frozen):
    """What a model of pairs was trained on: `source + separator + target + end`, each pair from the initial state
    (Sutskever, Vinyals and Le, "Sequence to Sequence Learning with Neural Networks", 2014, with one network for both).
    `separator` and `end` are tokens of the vocabulary that occur in no source and no target."""

    separator: str = "\t"
    end: str = "\n"


class TextManifest(Manifest):
    """A character model or a word model. A text is the concatenation of its tokens.

    Graph inputs, besides the state: `tokens` int64 (B, T), ids, which are indices into `vocabulary`; `lengths` int64
    (B,), each at least 1; `per_step` bool (): whether to compute `logits_all`.
    Outputs: `logits` float32 (B, V), scores of the next token after each row's last; `logits_all` float32 (B, T, V),
    after every token (T = 0 without `per_step`). Id 0 is the unknown token: the model reads it but never generates it.

    The graph `decode` takes N steps at once; each row samples its next token itself. Its state is that of the other
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
    unit: TokenLevel = Field(default="character", description="what a token is; see WORD_PATTERN")
    vocabulary: tuple[str, ...] = Field(min_length=2, description="id -> token; id 0, the unknown token, is ''")
    replacements: dict[str, str] = Field(
        default={}, description="characters to rewrite before tokenizing (typographic quotes, dashes, spaces)"
    )
    context: int = Field(gt=0, description="tokens per training window (truncation of backpropagation)")
    pairs: Pairs | None = Field(default=None, description="of a model that turns a source into a target")

    @model_validator(mode="after")
    def _vocabulary_matches_unit(self) -> "TextManifest":
        if self.vocabulary[0] != "":
            raise ValueError("vocabulary must begin with '' (unknown)")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError("vocabulary must not repeat a token")
        if self.unit == "character":
            if any(len(token) != 1 for token in self.vocabulary[1:]):
                raise ValueError("after '', the vocabulary of a character model must be single characters")
        elif not all(map(re.compile(WORD_PATTERN).fullmatch, self.vocabulary[1:])) or UNKNOWN_WORDS & {
            *self.vocabulary
        }:
            raise ValueError("after '', the vocabulary of a word model must be tokens that match WORD_PATTERN")
        return self

    @model_validator(mode="after")
    def _replacements_are_characters(self) -> "TextManifest":
        if any(len(old) != 1 for old in self.replacements):
            raise ValueError("replacements must replace single characters")
        return self

    @model_validator(mode="after")
    def _marks_of_pairs_are_tokens(self) -> "TextManifest":
        if self.pairs is None:
            return self
        marks = self.pairs.separator, self.pairs.end
        if marks[0] == marks[1]:
            raise ValueError("the separator and the end of pairs must differ")
        for mark in marks:
            # Wherever a mark stands, it is read as itself and leaves the tokens around it as they are.
            texts = {f"a{mark}a": ["a", mark, "a"], f"a {mark} a": [*pre_tokenize(self.unit, "a "), mark]}
            for text, tokens in texts.items():
                if [*pre_tokenize(self.unit, self.tokenizer.normalize(text))][: len(tokens)] != tokens:
                    raise ValueError(f"the model must read {mark!r} as one token, since it is a mark of pairs")
            if mark not in self.vocabulary:
                raise ValueError(f"the vocabulary must have {mark!r}, since it is a mark of pairs")
        return self

    def graphs(self, precision: Precision) -> Graphs:
        """As `Manifest.graphs`, with the graph that decodes."""
        graphs = super().graphs(precision)
        return graphs if precision == "int8" else replace(graphs, decode=self.decode)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of this vocabulary."""
        return Tokenizer(self.vocabulary, self.unit, self.replacements)
