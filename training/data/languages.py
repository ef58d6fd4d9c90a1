"""Makes the labelled texts of the model `languages`: sentences to train on, and texts of another source to measure on.

`python -m training.data.languages sentences FOLDER` reads the sentences of Common Voice (CC0; its `server/data`),
`... declaration FOLDER` the Universal Declaration of Human Rights (NLTK's corpus `udhr2`). Both write JSON lines.
"""

import json
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np

LANGUAGES = {
    "Arabic": ("ar", ("arb",)),
    "Basque": ("eu", ("eus",)),
    "Bulgarian": ("bg", ("bul",)),
    "Catalan": ("ca", ("cat",)),
    "Czech": ("cs", ("ces",)),
    "Danish": ("da", ("dan",)),
    "Dutch": ("nl", ("nld",)),
    "English": ("en", ("eng",)),
    "Esperanto": ("eo", ("epo",)),
    "Estonian": ("et", ("est",)),
    "Finnish": ("fi", ("fin",)),
    "French": ("fr", ("fra",)),
    "Georgian": ("ka", ("kat",)),
    "German": ("de", ("deu",)),
    "Greek": ("el", ("ell_monotonic",)),
    "Hindi": ("hi", ("hin",)),
    "Hungarian": ("hu", ("hun",)),
    "Indonesian": ("id", ("ind",)),
    "Irish": ("ga-IE", ("gle",)),
    "Italian": ("it", ("ita",)),
    "Latvian": ("lv", ("lav",)),
    "Norwegian": ("nb-NO", ("nob",)),
    "Persian": ("fa", ("pes_1",)),
    "Polish": ("pl", ("pol",)),
    "Portuguese": ("pt", ("por_BR", "por_PT")),
    "Romanian": ("ro", ("ron",)),
    "Russian": ("ru", ("rus",)),
    "Serbian": ("sr", ("srp_cyrl", "srp_latn")),
    "Slovak": ("sk", ("slk",)),
    "Slovenian": ("sl", ("slv",)),
    "Spanish": ("es", ("spa",)),
    "Swedish": ("sv-SE", ("swe",)),
    "Turkish": ("tr", ("tur",)),
    "Ukrainian": ("uk", ("ukr",)),
    "Vietnamese": ("vi", ("vie",)),
    "Welsh": ("cy", ("cym",)),
}
"""Each language's folder of Common Voice, and its files of the declaration."""
OTHER_FILES = ("europarl", "wiki", "singleword")
"""Files of Common Voice that begin so are left out: they have other terms, or no sentences."""
MAX_FILE_BYTES = 4 * 2**20
MAX_SENTENCES = 4000
"""Of a language."""
LONGEST = 300
"""Characters."""
CYRILLIC, LATIN = "абвгдђежзијклљмнњопрстћуфхцчџш", "a b v g d đ e ž z i j k l lj m n nj o p r s t ć u f h c č dž š"
"""The letters of Serbian, which is written in both."""
SERBIAN_LETTERS = dict(zip(CYRILLIC, LATIN.split(), strict=True))


def read_sentences(folder: Path) -> Iterator[str]:
    """The different sentences of a language's folder of Common Voice."""
    files = [
        file
        for file in sorted(folder.glob("*.txt"))
        if not file.name.startswith(OTHER_FILES) and file.stat().st_size < MAX_FILE_BYTES
    ]
    lines = (line for file in files for line in file.read_text(encoding="utf-8", errors="ignore").splitlines())
    yield from dict.fromkeys(text for line in lines if len(text := _clean(line)) <= LONGEST and _is_sentence(text))


def _clean(line: str) -> str:
    """Composed characters, and single spaces."""
    return " ".join(unicodedata.normalize("NFC", line).split())


def _is_sentence(text: str) -> bool:
    """Whether most of it is letters, and the marks of letters."""
    return len(text) >= 3 and sum(unicodedata.category(letter)[0] in "LM" for letter in text) > len(text) / 2


def cut(text: str, other: str, rng: np.random.Generator) -> str:
    """The sentence, some of its words (half of the times), or it and another one (a fifth); of these a quarter in
    small letters, as people type."""
    words = text.split()
    chance = rng.random()
    if chance < 0.2:
        text = f"{text} {other}"
    elif chance < 0.7 and len(words) > 1:
        count = int(rng.integers(1, len(words)))
        first = int(rng.integers(len(words) - count + 1))
        part = " ".join(words[first : first + count])
        text = part if _is_sentence(part) else text
    return text.lower() if rng.random() < 0.25 else text


def to_latin(text: str) -> str:
    """Serbian in Latin letters."""
    small = {ord(old): new for old, new in SERBIAN_LETTERS.items()}
    return text.translate(small | {ord(old.upper()): new.capitalize() for old, new in SERBIAN_LETTERS.items()})


def sentences(folder: Path, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Up to MAX_SENTENCES of each language, each with its language."""
    for language, (name, _) in LANGUAGES.items():
        found = list(read_sentences(folder / name))
        if not found:
            raise SystemExit(f"{folder / name}: no sentences")
        order = rng.permutation(len(found))
        for i, chosen in enumerate(order[:MAX_SENTENCES]):
            text = cut(found[chosen], found[order[i - 1]], rng)
            yield language, to_latin(text) if language == "Serbian" and i % 2 else text


def declaration(folder: Path) -> Iterator[tuple[str, str]]:
    """The paragraphs of the declaration in each language, of three words or more."""
    for language, (_, names) in LANGUAGES.items():
        for name in names:
            for line in (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines():
                text = _clean(line)
                if len(text.split()) >= 3 and _is_sentence(text):
                    yield language, text[:LONGEST]


def main(source: str, folder: str, seed: int = 1) -> None:
    """Write labelled texts to standard output."""
    rng = np.random.default_rng(seed)
    texts = sentences(Path(folder), rng) if source == "sentences" else declaration(Path(folder))
    for language, text in texts:
        sys.stdout.write(json.dumps({"label": language, "text": text}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
