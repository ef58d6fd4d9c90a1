"""What the folder of a text model says of itself."""

import re
from dataclasses import replace
from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from service.manifest import Graph, Graphs, Manifest, Precision
from service.text.tokenizer import UNKNOWN_WORDS, WORD_PATTERN, Tokenizer, TokenLevel


class TextManifest(Manifest):
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
    unit: TokenLevel = Field(default="character", description="what a token is; see WORD_PATTERN")
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

    def graphs(self, precision: Precision) -> Graphs:
        """As `Manifest.graphs`, with the graph that decodes."""
        graphs = super().graphs(precision)
        return graphs if precision == "int8" else replace(graphs, decode=self.decode)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Of the vocabulary."""
        return Tokenizer(self.vocabulary, self.unit, self.replacements)
