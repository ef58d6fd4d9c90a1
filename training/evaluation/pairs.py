"""Measures models of pairs: what they write for sources that they never saw, beside the targets."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rapidfuzz.distance import Levenshtein

from carry.files import DataError
from carry.models import LanguageModel, TextWriter
from service.manifest import Precision, read_manifest
from service.text.manifest import TextManifest
from training.data.pairs import EncodedPair, Pair, encode_pairs, read_pairs
from training.models import ModelFolder
from training.progress import say


def have_pairs(models: Sequence[ModelFolder]) -> bool:
    """Whether one of the models learnt from pairs."""
    return any(isinstance(model.manifest, TextManifest) and model.manifest.pairs for model in models)


def write_targets(writer: TextWriter, pairs: Sequence[Pair]) -> list[str]:
    """What a model writes for each source, always its most probable token next. A text ends where the model ends it, or
    when it is twice as long as the longest target."""
    tokenizer = writer.manifest.tokenizer
    longest = 2 * max(len(tokenizer.encode(pair.target)[1]) for pair in pairs) + 1
    return writer.write_targets([pair.source for pair in pairs], longest)


def target_nats(model: LanguageModel, pairs: Sequence[EncodedPair]) -> float:
    """What the targets and their ends cost in nats, all together, each after its source."""
    texts, prompts = [pair.tokens for pair in pairs], [pair.prompt for pair in pairs]
    return float(model.nats(texts).sum() - model.nats(prompts).sum())


def pair_scores(pairs: Sequence[Pair], written: Sequence[str], nats: float) -> dict[str, float]:
    """The measures of what a model wrote.

    exact_match: the share of the texts that equal their target. character_error_rate: the insertions, deletions and
    substitutions that turn the texts into the targets (Levenshtein 1966), per character of the targets.
    bits_per_character: what the targets cost, per character of them and of the ends.
    """
    edits = sum(Levenshtein.distance(text, pair.target) for text, pair in zip(written, pairs, strict=True))
    characters = sum(len(pair.target) for pair in pairs)
    return {
        "exact_match": sum(text == pair.target for text, pair in zip(written, pairs, strict=True)) / len(pairs),
        "character_error_rate": edits / characters,
        "bits_per_character": nats / math.log(2) / (characters + len(pairs)),
    }


def evaluate_pairs(folders: Sequence[Path], data: Sequence[Path]) -> dict[str, dict[str, float]]:
    """The measures of every graph of the folders on pairs, and the seconds that writing took. Models of one name are
    told apart by their versions.

    Raises:
        DataError: a file cannot be read, or holds something else than pairs.
    """
    pairs = read_pairs(data)
    say(f"{len(pairs):,} pairs")
    manifests = [read_manifest(folder, TextManifest) for folder in folders]
    names = Counter(manifest.name for manifest in manifests)
    rows = {}
    for folder, manifest in zip(folders, manifests, strict=True):
        if manifest.pairs is None:
            raise DataError(f"{manifest.label} did not learn from pairs: measure it apart from the models that did")
        encoded = encode_pairs(manifest.tokenizer, pairs, manifest.pairs)
        precisions: list[Precision] = ["float32", "int8"] if manifest.int8 else ["float32"]
        for precision in precisions:
            graphs = manifest.graphs(precision)
            assert graphs.decode is not None
            name = manifest.name if names[manifest.name] == 1 else manifest.label
            name += ", int8" if precision == "int8" else ""
            say(f"writing the targets with {name}")
            with closing(TextWriter(folder, manifest, graphs.graph, graphs.decode)) as writer:
                started = time.perf_counter()
                written = write_targets(writer, pairs)
                seconds = time.perf_counter() - started
            model = LanguageModel.of_folder(folder, manifest, graphs.graph)
            rows[name] = {
                **pair_scores(pairs, written, target_nats(model, encoded)),
                "pairs": float(len(pairs)),
                f"unknown_{manifest.unit}s": float(sum(int((pair.tokens == 0).sum()) for pair in encoded)),
                "seconds": seconds,
            }
    return rows
