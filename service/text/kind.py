"""Text models as a kind of model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from service.engine.decode import DecodeGraph
from service.engine.runner import GraphMismatchError, Runner, States, check_outputs
from service.engine.sequence import SequenceState, Task
from service.kind import FirstInput, Model, ModelCard, OpenGraphs, SessionAccuracy, StateSpec
from service.manifest import Graph, Graphs
from service.settings import Settings
from service.text.decoder import TextDecoder
from service.text.limits import check_length
from service.text.manifest import TextManifest
from service.text.openai_answers import model_cards
from service.text.prepare import read_texts
from service.text.sampling import SamplingParams, controls
from service.text.schemas import FirstText
from service.text.scoring import predict, predict_bytes
from service.tokenizer import TokenizedText, Tokenizer

if TYPE_CHECKING:
    from fastapi import APIRouter


class TextKind:
    """Character and word models. Cutting a text anywhere does not change a bit."""

    name = "text"
    manifest = TextManifest
    split_invariant = True
    first_input: type[BaseModel] = FirstText
    inputs = ("prompt",)
    calls: Mapping[str, tuple[str, ...]] = {
        "/generate": ("prompt", "source"),
        "/predict": ("text",),
        "/v1/chat/completions": ("messages",),
        "/v1/completions": (),
    }

    def default_model(self, settings: Settings) -> str:
        """As `Kind.default_model`."""
        return settings.default_text_model

    def state_spec(self, manifest: TextManifest, graphs: Graphs) -> StateSpec:
        """The graphs' own state. Its integers are token ids."""
        return StateSpec(graphs.state, (0, len(manifest.vocabulary) - 1))

    def open(self, folder: Path, manifest: TextManifest, graphs: Graphs, threads: int) -> OpenGraphs:
        """As `Kind.open`."""
        assert graphs.decode is not None
        _check_controls(graphs.decode)
        runner = Runner(folder, graphs.graph, threads)
        decoder = TextDecoder(manifest.vocabulary)
        return OpenGraphs(runner, DecodeGraph(Runner(folder, graphs.decode, threads), decoder))

    def smoke_test(self, manifest: TextManifest, graphs: Graphs, opened: OpenGraphs) -> None:
        """Read two tokens and generate two. Check shapes, that scores are finite, that ids are in the vocabulary."""
        size, runner = len(manifest.vocabulary), opened.runner
        expected = {"logits": (1, size), "logits_all": (1, 2, size)}
        tokens = {"tokens": np.zeros((1, 2), dtype=np.int64)}
        outputs, states = runner.prefill(tokens, np.array([2]), runner.initial_states(1), list(expected))
        check_outputs(graphs.graph.file, dict(zip(expected, outputs, strict=True)), expected)
        assert opened.decode_graph is not None
        _test_decoding(opened.decode_graph, states, size)

    def prepare_first_input(self, body: Any, model: Model[TextManifest], settings: Settings) -> FirstInput:
        """Tokenize the first text."""
        check_length(body.prompt, settings, "$.prompt")
        tokenizer = model.manifest.tokenizer
        [text] = read_texts(tokenizer, {"$.prompt": body.prompt}, "replace").tokenized
        max_bytes = predict_bytes(len(text.ids), False, 0, (), tokenizer.size)
        return FirstInput(_read_text(tokenizer, text), 1 + len(text.ids), max_bytes, "$.prompt")

    def accuracy(self, manifest: TextManifest, state: SequenceState) -> SessionAccuracy | None:
        """None: texts are not forecast."""
        return None

    def listed(self, models: Sequence[Model[TextManifest]], settings: Settings) -> list[ModelCard]:
        """A card for each model; the newest version of each name has the name as its id."""
        return model_cards(models, settings)

    def routers(self) -> "Sequence[APIRouter]":
        """As `Kind.routers`."""
        from service.text import openai, routes, token_routes

        return [routes.router, openai.router, token_routes.router, openai.without_prefix]


TEXT = TextKind()


def _read_text(tokenizer: Tokenizer, text: TokenizedText) -> Task[SequenceState]:
    scored = yield from predict(tokenizer, text, False)
    return scored.after


def _check_controls(decode: Graph) -> None:
    """Refuse a graph without the newest controls, which an earlier version of Carry exported."""
    missing = controls([SamplingParams()], vocabulary=1).keys() - {tensor.name for tensor in decode.inputs}
    if missing:
        raise GraphMismatchError(
            f"{decode.file} does not take {', '.join(sorted(missing))}: an earlier version of Carry exported it; train "
            "it again, with `--start-from` to continue from its weights"
        )


def _test_decoding(decode_graph: DecodeGraph, states: States, vocabulary: int) -> None:
    params = controls([SamplingParams()], vocabulary)
    steps = {"uniforms": np.full((2, 1), 0.5, dtype=np.float32), "given_tokens": np.array([[0], [-1]])}
    (tokens, scores), _ = decode_graph.runner.run(
        {**params, **steps}, decode_graph.runner.initial_states(1) | states, decode_graph.decoder.output_names
    )
    if (tokens.shape, scores.shape) != ((2, 1), (2, 1, vocabulary)):
        raise GraphMismatchError(f"the graph that decodes gives the shapes {[tokens.shape, scores.shape]}")
    if not ((tokens >= 0) & (tokens < vocabulary)).all():
        raise GraphMismatchError("the graph that decodes gives tokens that are not in the vocabulary")
