"""Measures text models on documents they never saw, side by side."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from carry.files import DataError
from carry.models import LanguageModel
from service.manifest import read_manifest
from service.text.manifest import TextManifest
from training.data.texts import Document, Encoded, encode_all, read_documents
from training.models import ModelFolder
from training.progress import say


def text_scores(manifest: TextManifest, documents: Sequence[Encoded], nats: float) -> dict[str, float]:
    """The measures of documents that cost so many nats together. The characters of a document's first token do not
    count, as it is not predicted; an unknown word costs what its token does."""
    characters = max(1, sum(document.characters for document in documents))
    scores = {"bits_per_character": nats / math.log(2) / characters, "nats_per_character": nats / characters}
    if manifest.unit == "word":
        words = sum(max(0, len(document.tokens) - 1) for document in documents)
        scores["perplexity_per_word"] = math.exp(nats / max(1, words))
    return scores


def evaluate_text(
    folders: Sequence[Path], data: Sequence[Path], last: float | None = None, shipped: ModelFolder | None = None
) -> dict[str, dict[str, float]]:
    """The costs of documents, each read once from its start: of all together and of each, by every graph of the
    folders. Models of one name are told apart by their versions. shipped: to be measured beside them.

    last: of each document only its last share, which begins at int(n * (1 - last)), as if nothing came before.

    Raises:
        DataError: a file cannot be read, or no document has two tokens.
    """
    documents = read_documents(data)
    if last is not None:
        documents = [Document(each.name, each.text[int(len(each.text) * (1 - last)) :]) for each in documents]
    say(f"{len(documents):,} documents, {sum(len(document.text) for document in documents):,} characters")
    manifests = [read_manifest(folder, TextManifest) for folder in folders]
    names = Counter(manifest.name for manifest in manifests)
    rows: dict[str, dict[str, float]] = {}
    for folder, manifest in zip(folders, manifests, strict=True):
        label = manifest.name if names[manifest.name] == 1 else manifest.label
        for name, model in LanguageModel.open(folder).items():
            rows |= _rows(name.replace(manifest.name, label, 1), model, documents)
    if shipped is not None:
        model = next(iter(LanguageModel.open(shipped.path).values()))
        rows |= _rows(f"the shipped {shipped.label}", model, documents)
    return rows


def _rows(name: str, model: LanguageModel, documents: Sequence[Document]) -> dict[str, dict[str, float]]:
    """A row of all documents together and, of several, a row of each."""
    manifest = model.manifest
    encoded = encode_all(manifest.tokenizer, (document.text for document in documents))
    if not any(len(document.tokens) > 1 for document in encoded):
        raise DataError("too short to measure: the first character or word of a document is read, not predicted")
    groups = [("", slice(None))]
    if len(documents) > 1:
        groups += [(f"{i + 1}. {document.name}", slice(i, i + 1)) for i, document in enumerate(documents)]
    say(f"reading them with {name}")
    started = time.perf_counter()
    nats = model.nats([document.tokens for document in encoded])
    seconds = time.perf_counter() - started
    rows = {}
    for group, part in groups:
        members = encoded[part]
        rows[f"{name}, {group}" if group else name] = {
            **text_scores(manifest, members, float(nats[part].sum())),
            "characters": float(sum(document.characters for document in members)),
            f"unknown_{manifest.unit}s": float(sum(int((document.tokens == 0).sum()) for document in members)),
            **({} if group else {"seconds": seconds}),
        }
    return rows
