"""The requests that the benchmark sends: the same for every server, from fixed seeds."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

_PASSAGE = """First Citizen:
We are accounted poor citizens, the patricians good. What authority surfeits on would relieve us: if they would yield
us but the superfluity, while it were wholesome, we might guess they relieved us humanely; but they think we are too
dear: the leanness that afflicts us, the object of our misery, is as an inventory to particularise their abundance;
our sufferance is a gain to them. Let us revenge this with our pikes, ere we become rakes: for the gods know I speak
this in hunger for bread, not in thirst for revenge.

All:
Against him first: he's a very dog to the commonalty. Consider you what services he has done for his country? Very
well; and could be content to give him good report for it, but that he pays himself with being proud.
"""
PROMPT_LENGTH = 50
GENERATED_LENGTH = 200
SERIES_LENGTH = 200
HORIZON = 24
LONG_PROMPT_LENGTH = 200_000


@dataclass(frozen=True)
class Request:
    """A path and a JSON body."""

    path: str
    body: dict[str, Any]

    def http(self, envelope: str | None = None) -> bytes:
        """As sent over the wire; envelope: the field of a list of one that the server wants around the body."""
        content = orjson.dumps({envelope: [self.body]} if envelope else self.body)
        head = f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def prompt_at(place: int, length: int = PROMPT_LENGTH) -> str:
    """Some characters of the passage, which goes on from its beginning again."""
    start = place % len(_PASSAGE)
    return (_PASSAGE * (2 + length // len(_PASSAGE)))[start : start + length]


def texts(count: int, stream: bool = False) -> list[Request]:
    """Texts to continue by 200 characters."""
    generator = np.random.default_rng(1)
    places = generator.integers(0, len(_PASSAGE), count).tolist()
    bodies = [
        {"prompt": prompt_at(place), "max_length": GENERATED_LENGTH, "temperature": 0.8, "seed": seed}
        for seed, place in enumerate(places)
    ]
    return [Request("/generate", body | {"stream": True} if stream else body) for body in bodies]


def long_prompt() -> Request:
    """A long text to read, for one character."""
    prompt = prompt_at(0, LONG_PROMPT_LENGTH)
    return Request("/generate", {"prompt": prompt, "max_length": 1, "temperature": 0.8, "seed": 1})


def series(count: int) -> list[list[float]]:
    """Random walks with a season of 12."""
    generator = np.random.default_rng(2)
    steps = generator.normal(0, 1, (count, SERIES_LENGTH))
    season = 5 * np.sin(2 * np.pi * (np.arange(SERIES_LENGTH) / 12 + generator.random((count, 1))))
    walks: list[list[float]] = (100 + steps.cumsum(axis=1) + season).round(3).tolist()
    return walks


def forecasts(count: int) -> list[Request]:
    """Series to continue by 24 values."""
    return [Request("/forecast", {"series": values, "horizon": HORIZON}) for values in series(count)]


def forecast_batches(count: int, size: int) -> list[Request]:
    """The same, `size` series to a call."""
    bodies = [request.body for request in forecasts(count)]
    return [Request("/forecast/batch", {"requests": bodies[start : start + size]}) for start in range(0, count, size)]


def mixed(count: int) -> list[Request]:
    """Short texts and forecasts in turn, of mixed lengths, temperatures, seeds, horizons."""
    generator = np.random.default_rng(3)
    walks = series(count)
    requests = []
    for i in range(count):
        length = int(generator.integers(1, 150))
        if i % 2:
            horizon = int(generator.integers(1, 49))
            requests.append(Request("/forecast", {"series": walks[i][: length + 10], "horizon": horizon}))
        else:
            body = {
                "prompt": prompt_at(int(generator.integers(0, 1000)), length),
                "max_length": int(generator.integers(1, 21)),
                "temperature": round(float(generator.uniform(0.2, 1.5)), 3),
                "seed": int(generator.integers(0, 2**31)),
            }
            requests.append(Request("/generate", body))
    return requests
