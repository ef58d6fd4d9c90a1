"""Reads values of metrics, and prints those that are out of the ordinary as they come.

Each metric has a session of the service: a call sends what is new, and its cost does not grow. The file of sessions
says where each metric stands, so that this program may be stopped at any moment and started again.
"""

import argparse
import csv
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypedDict

import carry
from carry.errors import CarryError, SessionExpiredError, SessionNotFoundError

AT_ONCE = 200
"""Rows of a file that are read together."""


class Row(NamedTuple):
    """A value of a metric; None: missing."""

    time: str
    metric: str
    value: float | None


class Seen(TypedDict):
    """What is announced of a metric: id of its session, how many values the session had read, time of the last one."""

    session: str
    values: int
    time: str


class Watch:
    """The sessions of all metrics, and the file that remembers them."""

    def __init__(self, client: carry.Client, file: Path, level: float, learn: int) -> None:
        """level: of the interval in percent; learn: values to read of a new metric before it can raise an alarm."""
        self._client, self._file, self._level, self._learn = client, file, level, learn
        self._sessions: dict[str, carry.Session] = {}
        self._seen: dict[str, Seen] = json.loads(file.read_text()) if file.exists() else {}

    def read(self, rows: Sequence[Row]) -> None:
        """Judge values in one call for each metric, but for those that are not newer than what was read. Times sort as
        text."""
        new: defaultdict[str, list[Row]] = defaultdict(list)
        for row in rows:
            if row.metric not in self._seen or row.time > self._seen[row.metric]["time"]:
                new[row.metric].append(row)
        expected: dict[Row, str] = {}
        for metric, values in new.items():
            session = self._session(metric)
            verdicts = session.anomalies([row.value for row in values], self._level)
            for i, row in enumerate(values):
                if verdicts.anomaly[i] and session.position - len(values) + i >= self._learn:
                    expected[row] = f"{verdicts.lower[i]:.1f} to {verdicts.upper[i]:.1f}"
            self._seen[metric] = {"session": session.id, "values": session.position, "time": values[-1].time}
        for row in rows:
            if row in expected:
                print(f"{row.time} {row.metric} {row.value:g}, expected {expected[row]}", flush=True)
        # First a new file, then its name: whoever is killed here leaves the old file or the new one.
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(self._seen))
        fresh.replace(self._file)

    def _session(self, metric: str) -> carry.Session:
        """The metric's session: this one's, the one in the file, or a new one."""
        if metric in self._sessions:
            return self._sessions[metric]
        seen = self._seen.get(metric)
        session = None
        if seen is not None:
            try:
                session = self._client.attach(seen["session"])
            except (SessionNotFoundError, SessionExpiredError):
                print(f"{metric}: the service has no session of it any more, and learns it anew", file=sys.stderr)
            else:
                # The last run ended between the service's answer and ours: that call is taken back, and made again.
                if session.position > seen["values"]:
                    session.rewind()
        self._sessions[metric] = session or self._client.session(model="forecast")
        return self._sessions[metric]


def batches(source: str) -> Iterator[list[Row]]:
    """The rows of a CSV file, many at once; those of standard input (-) one by one, as they come. Columns: time,
    metric, value; an empty value is missing."""
    with nullcontext(sys.stdin) if source == "-" else open(source, newline="") as lines:
        reader = csv.DictReader(lines)
        rows = (Row(row["time"], row["metric"], float(row["value"]) if row["value"] else None) for row in reader)
        while batch := [*islice(rows, 1 if source == "-" else AT_ONCE)]:
            yield batch


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description="Print the values of metrics that are out of the ordinary.")
    parser.add_argument("source", help="a CSV file with the columns time, metric, value; - is standard input")
    parser.add_argument("--url", default="http://localhost:8000", help="of the service")
    parser.add_argument("--sessions", type=Path, default=Path("sessions.json"), help="the file that remembers them")
    parser.add_argument("--level", type=float, default=98, help="of the interval, in percent: 98 is 1 in 50 by chance")
    parser.add_argument("--learn", type=int, default=144, help="values of a new metric that raise no alarm")
    options = parser.parse_args()
    # A service that restarts is waited for, up to ten minutes. A repeated call changes its session once.
    client = carry.Client(options.url, os.environ.get("CARRY_API_KEY"), timeout=600, max_retries=1000)
    try:
        with client:
            watch = Watch(client, options.sessions, options.level, options.learn)
            for rows in batches(options.source):
                watch.read(rows)
    except KeyboardInterrupt:
        sys.exit(130)
    except CarryError as error:
        sys.exit(f"{error}; start again to go on from here")


if __name__ == "__main__":
    main()
