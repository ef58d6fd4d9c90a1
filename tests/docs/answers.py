"""Compares what a command printed with the answer that a page shows, and writes the answer anew.

In an answer of JSON, `...` stands for what is left out: fields of an object, items of a list, the end of a text. In
other answers a line `...` stands for any lines. Numbers have as many digits as the page shows. Ids, times and
the cuts of a stream are different each time. Knows nothing of pages and of running.
"""

import json
import re
from decimal import Decimal
from typing import Any

WIDTH = 100
"""Longest line of an answer of JSON."""
REST = "\ue000"
"""What `...` is read as: the name of a field, or an item."""
CHANCE = re.compile(r"[0-9a-f]{32}|\d{4}-\d\d-\d\dT[\d:.]+\+00:00|(?<= in )\d+ s\b")
"""Ids, times and how long something took."""
CHANCE_FIELDS = {"created", "created_at"}
"""Fields whose numbers are times."""
DIGITS = 6
"""Of a number that is written anew."""
_TOKEN = re.compile(r"-?\d+\.\d+(?:e-?\d+)?|\s+|.")


class DifferentError(AssertionError):
    """What was printed is not what the page shows."""


def compare(printed: str, shown: str) -> None:
    """Compare what a command printed with what the page shows.

    Raises:
        DifferentError: they differ; it says where.
    """
    printed, shown = printed.strip(), shown.strip()
    if shown.startswith("data: "):
        _compare_values("the stream", *_same_length(_streamed(shown), _streamed(printed)))
    elif shown.startswith(("{", "[{")):
        try:
            value = json.loads(printed)
        except ValueError as error:
            raise DifferentError(f"no JSON: {printed}") from error
        _compare_values("$", parse(shown), value)
    else:
        _compare_lines(printed, shown)


def write(printed: str, shown: str) -> str:
    """The answer for the page: as much of what was printed as the page showed, or a beginning if it showed nothing."""
    printed, shown = printed.strip(), shown.strip()
    if printed.startswith("{"):
        return layout(shorten(json.loads(printed), parse(shown) if shown.startswith("{") else None)) + "\n"
    lines = printed.splitlines()
    if "..." in shown.splitlines():
        before, _, after = (part.splitlines() for part in f"\n{shown}\n".partition("\n...\n"))
        kept = len(list(filter(None, before))), len(list(filter(None, after)))
        lines = [*lines[: kept[0]], "...", *lines[len(lines) - kept[1] :]]
    elif shown.startswith("data: "):
        lines = lines[: len(shown.splitlines())]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def parse(shown: str) -> Any:
    """An answer of JSON, with `REST` for each `...`. Numbers are Decimals: they know their digits."""
    parts, stack = [], []
    for token in re.findall(r'"(?:\\.|[^"\\])*"|\.\.\.|[{}\[\]]|[^"{}\[\].]+|\.', shown):
        if token in "{[":
            stack.append(token)
        elif token in "}]":
            stack.pop()
        elif token == "...":
            token = f'"{REST}": 0' if stack[-1] == "{" else f'"{REST}"'
        parts.append(token)
    return json.loads("".join(parts), parse_float=Decimal)


def shorten(value: Any, shape: Any = None) -> Any:
    """What a page shows of a value: the fields, items, letters and digits that it showed before (`shape`), and its ids
    and times; of a new value all fields that are not null, three items, and a line of text."""
    if isinstance(value, dict):
        known = shape if isinstance(shape, dict) and shape else None
        if known is None:
            names = [name for name, item in value.items() if item is not None]
        elif REST in known:
            names = [name for name in known if name in value]
        else:
            names = list(value)
        short = {name: shorten(value[name], (known or {}).get(name)) for name in names}
        return short if len(short) == len(value) else short | {REST: 0}
    if isinstance(value, list):
        shapes = shape if isinstance(shape, list) else []
        if REST in shapes:
            first, last = shapes.index(REST), len(shapes) - 1 - shapes.index(REST)
        else:
            first, last = (len(value), 0) if shapes or len(value) <= 4 else (3, 0)
        head = [shorten(item, shapes[i] if i < len(shapes) else None) for i, item in enumerate(value[:first])]
        if first + last >= len(value):
            return [*head, *(shorten(item) for item in value[first:])]
        return [*head, REST, *(shorten(item) for item in value[len(value) - last :])]
    if isinstance(value, str):
        if isinstance(shape, str) and CHANCE.sub("*", shape) == CHANCE.sub("*", value):
            return shape
        length = len(shape) - 3 if isinstance(shape, str) and shape.endswith("...") else WIDTH - 30
        keep = isinstance(shape, str) and not shape.endswith("...")
        return value if keep or len(value) <= length + 3 else f"{value[:length]}..."
    return shape if _same_number(shape, value) else value


def layout(value: Any, margin: int = 0, used: int = 0) -> str:
    """JSON on one line if it fits, else an item on each line (numbers: as many as fit)."""
    line = _one_line(value)
    if margin + used + len(line) <= WIDTH or not isinstance(value, (dict, list)) or not value:
        return line
    inner = " " * (margin + 2)
    if isinstance(value, dict):
        rows = []
        for name, item in value.items():
            start = "..." if name == REST else f"{json.dumps(name, ensure_ascii=False)}: "
            rows.append(start if name == REST else start + layout(item, margin + 2, len(start) + 1))
    elif any(isinstance(item, (dict, list)) for item in value):
        rows = [layout(item, margin + 2, 1) for item in value]
    else:
        rows = [""]
        for item in map(_one_line, value):
            if rows[-1] and margin + 4 + len(rows[-1]) + len(item) > WIDTH:
                rows.append("")
            rows[-1] += f"{', ' if rows[-1] else ''}{item}"
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n" + ",\n".join(f"{inner}{row}" for row in rows) + f"\n{' ' * margin}{closing}"


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        items = ("..." if name == REST else f"{json.dumps(name)}: {_one_line(item)}" for name, item in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_one_line, value)) + "]"
    if value == REST:
        return "..."
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    return json.dumps(value, ensure_ascii=False)


def _compare_values(path: str, shown: Any, value: Any) -> None:
    """Compare what a page shows of a value with the value, recursively."""
    if isinstance(shown, dict) and isinstance(value, dict):
        names = set(shown) - {REST}
        if not names <= set(value) or (REST not in shown and names != set(value)):
            raise DifferentError(f"{path}: has the fields {sorted(value)}, the page shows {sorted(names)}")
        for name in names:
            if name not in CHANCE_FIELDS:
                _compare_values(f"{path}.{name}", shown[name], value[name])
    elif isinstance(shown, list) and isinstance(value, list):
        first = shown.index(REST) if REST in shown else len(shown)
        last = len(shown) - first - 1 if REST in shown else 0
        if len(value) < first + last or (REST not in shown and len(value) != first):
            raise DifferentError(f"{path}: has {len(value)} items, the page shows {len(shown)}")
        items = [*enumerate(value[:first]), *((i, value[i]) for i in range(len(value) - last, len(value)))]
        for item, (i, actual) in zip([*shown[:first], *shown[first + 1 :]], items, strict=True):
            _compare_values(f"{path}[{i}]", item, actual)
    elif isinstance(shown, str) and isinstance(value, str):
        cut = shown.endswith("...")
        beginning, text = CHANCE.sub("*", shown.removesuffix("...")), CHANCE.sub("*", value)
        if not (text.startswith(beginning) if cut else text == beginning):
            raise DifferentError(f"{path}: is {value!r}, the page shows {shown!r}")
    elif not _same_number(shown, value):
        raise DifferentError(f"{path}: is {value!r}, the page shows {shown}")


def _same_number(shown: Any, value: Any) -> bool:
    """Whether a value is what the page shows: a number to the digits that it shows, and to 1e-4."""
    if not isinstance(value, float) or not isinstance(shown, (int, Decimal)) or isinstance(shown, bool):
        return type(shown) is type(value) and bool(shown == value)
    exponent = shown.as_tuple().exponent if isinstance(shown, Decimal) else -DIGITS
    assert isinstance(exponent, int)
    return abs(float(shown) - value) <= 0.51 * 10.0**exponent + 1e-4 * abs(value)


def _compare_lines(printed: str, shown: str) -> None:
    beginning, dots, end = f"\n{shown}\n".partition("\n...\n")
    beginning, end = beginning.strip(), end.strip()
    lines = printed.splitlines()
    if dots:
        head, tail = len(beginning.splitlines()), len(end.splitlines())
        if len(lines) < head + tail:
            raise DifferentError(f"printed {len(lines)} lines:\n{printed}")
        pairs = [("\n".join(lines[:head]), beginning), ("\n".join(lines[len(lines) - tail :]), end)]
    else:
        pairs = [(printed, beginning)]
    for actual, expected in pairs:
        tokens, wanted = (
            [_word(token) for token in _TOKEN.findall(CHANCE.sub("*", text))] for text in (actual, expected)
        )
        same = len(tokens) == len(wanted) and all(
            _same_number(b, float(a)) if isinstance(a, Decimal) and isinstance(b, Decimal) else a == b
            for a, b in zip(tokens, wanted, strict=True)
        )
        if not same:
            raise DifferentError(f"printed:\n{actual}\nThe page shows:\n{expected}")


def _words(text: str) -> list[str | Decimal]:
    return [_word(token) for token in _TOKEN.findall(CHANCE.sub("*", text))]


def _word(token: str) -> str | Decimal:
    """A token to compare. The width of a column varies, so white space counts as one space."""
    if token.isspace():
        return " "
    return Decimal(token) if "." in token and token != "." else token


def _streamed(stream: str) -> str:
    """The text of a stream. How it is cut into events depends on timing."""
    frames = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: {")]
    texts = [choice["text"] for frame in frames for choice in frame.get("choices", [frame]) if "text" in choice]
    if not any(texts):
        raise DifferentError(f"no text in the stream:\n{stream}")
    return "".join(texts)


def _same_length(*texts: str) -> list[str]:
    """The beginnings of the texts, as long as the shortest text."""
    return [text[: min(map(len, texts))] for text in texts]
