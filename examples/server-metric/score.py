"""How many of the planted anomalies an alarm found, and how many alarms were false; beside simple rules.

An alarm is a run of values out of the ordinary, at most an hour apart. It is true if it touches a planted anomaly or
the hour after it, in which the metric returns. Scored is what comes after the first two days.
"""

import csv
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from statistics import fmean, stdev

LEARN = 144
AN_HOUR = timedelta(hours=1)

Span = tuple[datetime, datetime]


def beyond_three_sigma(window: int, step: int = 0) -> Callable[[Sequence[float]], list[int]]:
    """A rule that finds values more than three standard deviations from the mean of the `window` values before. step:
    looks not at the values, but at their changes over so many values."""

    def rule(values: Sequence[float]) -> list[int]:
        looked = [b - a for a, b in zip(values, values[step:], strict=False)] if step else values
        found = []
        for i in range(max(window, LEARN), len(values)):
            before, value = looked[i - step - window : i - step], looked[i - step]
            if abs(value - fmean(before)) > 3 * stdev(before):
                found.append(i)
        return found

    return rule


RULES = {
    "3 sigma of the last day": beyond_three_sigma(72),
    "3 sigma of two hours": beyond_three_sigma(6),
    "3 sigma of the change": beyond_three_sigma(72, step=1),
}


def alarms(times: Sequence[datetime]) -> list[Span]:
    """Runs of times, ascending."""
    runs: list[Span] = []
    for time in times:
        if runs and time - runs[-1][1] <= AN_HOUR:
            runs[-1] = runs[-1][0], time
        else:
            runs.append((time, time))
    return runs


def touches(alarm: Span, planted: Span) -> bool:
    """Whether an alarm touches an anomaly, or the hour after it."""
    return alarm[0] <= planted[1] + AN_HOUR and alarm[1] >= planted[0]


def main() -> None:
    """The program."""
    if len(sys.argv) != 4:
        sys.exit("usage: python score.py metrics.csv planted.csv alarms.txt")
    with open(sys.argv[1], newline="") as metrics, open(sys.argv[2], newline="") as planted, open(sys.argv[3]) as lines:
        values, spans = [*csv.DictReader(metrics)], [*csv.DictReader(planted)]
        announced = [line.split(maxsplit=2) for line in lines if line.strip()]
    print(f"{'':<34}{'found':>8}{'alarms':>8}{'false':>7}{'precision':>11}{'recall':>8}")
    for metric in dict.fromkeys(row["metric"] for row in values):
        rows = [row for row in values if row["metric"] == metric]
        times = [datetime.fromisoformat(row["time"]) for row in rows]
        anomalies = [
            (datetime.fromisoformat(span["first"]), datetime.fromisoformat(span["last"]))
            for span in spans
            if span["metric"] == metric
        ]
        numbers = [float(row["value"]) for row in rows]
        found = {"Carry": [datetime.fromisoformat(time) for time, name, _ in announced if name == metric]}
        found |= {name: [times[i] for i in rule(numbers)] for name, rule in RULES.items()}
        for name, moments in found.items():
            raised = alarms(moments)
            recalled = sum(any(touches(alarm, anomaly) for alarm in raised) for anomaly in anomalies)
            true = sum(any(touches(alarm, anomaly) for anomaly in anomalies) for alarm in raised)
            precision, recall = true / len(raised) if raised else 1.0, recalled / len(anomalies)
            print(
                f"{metric + ', ' + name:<34}{f'{recalled} of {len(anomalies)}':>8}{len(raised):>8}"
                f"{len(raised) - true:>7}{precision:>10.0%}{recall:>8.0%}"
            )


if __name__ == "__main__":
    main()
