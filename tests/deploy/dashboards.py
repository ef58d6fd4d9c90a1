"""Writes the dashboards of deploy/grafana: `python -m tests.deploy.dashboards`. Grafana's JSON repeats much, so what
they show is described here."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.docs.blocks import ROOT

FOLDER = ROOT / "deploy/grafana/dashboards"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
"""Of Grafana's grid."""


@dataclass(frozen=True)
class Panel:
    """Lines over time, or with `kind` "stat" the newest value. `queries`: expressions, each with the legend of its
    series. In them, `@` stands for the chosen instances and `[R]` for a range that fits the resolution."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    about: str = ""
    kind: str = "timeseries"
    stacked: bool = False
    red_above: float | None = None
    red_below: float | None = None


@dataclass(frozen=True)
class Row:
    """A heading with panels below it, side by side."""

    title: str
    panels: Sequence[Panel]
    per_line: int = 3


def rate(counter: str, by: str, labels: str = "") -> str:
    """The rate of a counter, summed by labels."""
    return f"sum by ({by}) (rate({counter}{{@{labels}}}[R]))"


def quantile(q: float, histogram: str, by: str = "", labels: str = "") -> str:
    """A quantile of a histogram."""
    names = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', names, labels)})"


WORK = ',model!=""'
"""Requests that ran a model."""
SECONDS = "carry_http_request_duration_seconds"
ANSWERS = "sum(rate(carry_http_requests_total{@}[R]))"
CHOSEN = ',model=~"$model"'
MODEL = "{{model}}@{{version}}"
BY_MODEL = "model, version"

OVERVIEW = [
    Row(
        "Now",
        [
            Panel("Requests", [(ANSWERS, "")], "reqps", kind="stat"),
            Panel(
                "Failed",
                [(f'(sum(rate(carry_http_requests_total{{@,status=~"5.."}}[R])) or vector(0)) / {ANSWERS}', "")],
                "percentunit",
                "Answered with a status of 500 or more.",
                kind="stat",
                red_above=0.01,
            ),
            Panel("99 % answered within", [(quantile(0.99, SECONDS, labels=WORK), "")], "s", kind="stat"),
            Panel("In flight", [("sum(carry_http_requests_in_flight{@})", "")], kind="stat"),
            Panel(
                "Fullest queue",
                [("max(carry_engine_waiting_steps{@} / carry_engine_max_waiting_steps{@})", "")],
                "percentunit",
                "Of the limit, beyond which requests are refused with 429.",
                kind="stat",
                red_above=0.8,
            ),
            Panel(
                "Processes ready",
                [("sum(carry_processes_ready{@}) / sum(carry_processes{@})", "")],
                "percentunit",
                kind="stat",
                red_below=1,
            ),
        ],
        per_line=6,
    ),
    Row(
        "Requests",
        [
            Panel("By route", [(rate("carry_http_requests_total", "method, route"), "{{method}} {{route}}")], "reqps"),
            Panel("By status", [(rate("carry_http_requests_total", "status"), "{{status}}")], "reqps", stacked=True),
            Panel(
                "Problems by code",
                [(f"topk(8, {rate('carry_http_problems_total', 'code')})", "{{code}}")],
                "reqps",
                "Refused or failed requests, and streams that ended with an error.",
            ),
            Panel(
                "Latency",
                [(quantile(q, SECONDS, labels=WORK), f"{100 * q:g} % within") for q in (0.5, 0.95, 0.99)],
                "s",
                "Of requests that ran a model, with their streams to the end.",
            ),
            Panel("Latency by route: 99 % within", [(quantile(0.99, SECONDS, "route", WORK), "{{route}}")], "s"),
            Panel("Latency by model: 99 % within", [(quantile(0.99, SECONDS, BY_MODEL, WORK + CHOSEN), MODEL)], "s"),
            Panel(
                "First byte of a stream",
                [
                    (quantile(q, "carry_http_stream_first_byte_seconds", labels=CHOSEN), f"{100 * q:g} % within")
                    for q in (0.5, 0.99)
                ],
                "s",
            ),
            Panel(
                "Broken streams",
                [(rate("carry_http_streams_broken_total", "reason"), "{{reason}}")],
                "reqps",
                "The client left or did not read, or an error ended them.",
            ),
            Panel("In flight", [("sum by (instance) (carry_http_requests_in_flight{@})", "{{instance}}")]),
        ],
    ),
    Row(
        "Models",
        [
            Panel(
                "Steps that wait",
                [(f"sum by ({BY_MODEL}) (carry_engine_waiting_steps{{@{CHOSEN}}})", MODEL)],
                about="Values and characters of accepted requests, to read and to predict.",
            ),
            Panel(
                "Wait for the first step",
                [
                    (
                        quantile(q, "carry_engine_queue_wait_seconds", BY_MODEL, CHOSEN),
                        f"{MODEL}: {100 * q:g} % within",
                    )
                    for q in (0.5, 0.99)
                ],
                "s",
            ),
            Panel(
                "Busy engines",
                [(rate("carry_engine_busy_seconds_total", f"{BY_MODEL}, phase", CHOSEN), f"{MODEL} {{{{phase}}}}")],
                about="How many engines run a call of the graph, on average: at most one for each process and model.",
                stacked=True,
            ),
            Panel(
                "Steps run",
                [(rate("carry_engine_steps_total", f"{BY_MODEL}, phase", CHOSEN), f"{MODEL} {{{{phase}}}}")],
                "ops",
            ),
            Panel(
                "Mean rows of a batch",
                [
                    (
                        rate("carry_engine_batch_rows_sum", f"{BY_MODEL}, phase", CHOSEN)
                        + " / "
                        + rate("carry_engine_batch_rows_count", f"{BY_MODEL}, phase", CHOSEN),
                        f"{MODEL} {{{{phase}}}}",
                    )
                ],
            ),
            Panel(
                "Steps in answers",
                [
                    (rate("carry_steps_read_total", BY_MODEL, CHOSEN), f"{MODEL} read"),
                    (rate("carry_steps_predicted_total", BY_MODEL, CHOSEN), f"{MODEL} predicted"),
                ],
                "ops",
            ),
            Panel(
                "Dropped",
                [(rate("carry_engine_dropped_total", f"{BY_MODEL}, reason", CHOSEN), f"{MODEL} {{{{reason}}}}")],
                "ops",
            ),
            Panel(
                "Passes its smoke test",
                [(f"min by ({BY_MODEL}) (carry_model_up{{@{CHOSEN}}})", MODEL)],
                red_below=1,
            ),
            Panel("Model folders", [("sum by (status) (carry_models{@})", "{{status}}")]),
        ],
    ),
]

SCORED = "carry_session_scored_values_total"
STATE = [
    Row(
        "Sessions and their store",
        [
            Panel("Sessions", [("max(carry_sessions{@})", "in the store")]),
            Panel("Events", [(rate("carry_session_events_total", "event"), "{{event}}")], "ops"),
            Panel(
                "Time of a change",
                [(quantile(q, "carry_session_commit_seconds"), f"{100 * q:g} % within") for q in (0.5, 0.99)],
                "s",
            ),
            Panel(
                "The store answers", [("min by (instance) (carry_session_store_up{@})", "{{instance}}")], red_below=1
            ),
            Panel("Bytes of the store", [("max(carry_session_store_bytes{@})", "")], "bytes"),
            Panel(
                "Calls that the store failed",
                [(rate("carry_http_problems_total", "code", ',code=~"store_.*|owner_store_full"'), "{{code}}")],
                "reqps",
            ),
        ],
    ),
    Row(
        "Accuracy of the forecasts in sessions",
        [
            Panel(
                "Values inside the intervals",
                [
                    (
                        f"sum by ({BY_MODEL}, interval) (rate(carry_session_values_inside_total{{@{CHOSEN}}}[1h])) "
                        f"/ ignoring (interval) group_left "
                        f"sum by ({BY_MODEL}) (rate({SCORED}{{@{CHOSEN}}}[1h]))",
                        f"{MODEL} {{{{interval}}}} %",
                    )
                ],
                "percentunit",
                "Of the last hour; each line should stay near its own share.",
            ),
            Panel(
                "Scaled error",
                [
                    (
                        f"sum by ({BY_MODEL}) (rate(carry_session_scaled_error_total{{@{CHOSEN}}}[1h])) "
                        f"/ sum by ({BY_MODEL}) (rate({SCORED}{{@{CHOSEN}}}[1h]))",
                        MODEL,
                    )
                ],
                about="Of the last hour; below 1, the forecasts are better than repeating the last value.",
            ),
            Panel("Values scored", [(rate(SCORED, BY_MODEL, CHOSEN), MODEL)], "ops"),
        ],
    ),
    Row(
        "Keys",
        [
            Panel("Requests by key", [(rate("carry_key_requests_total", "key"), "{{key}}")], "reqps"),
            Panel("Steps by key", [(rate("carry_key_steps_total", "key"), "{{key}}")], "ops"),
            Panel("Refused", [(rate("carry_key_refused_total", "key, reason"), "{{key}}: {{reason}}")], "reqps"),
        ],
    ),
    Row(
        "Processes",
        [
            Panel(
                "Cores in use",
                [("sum by (instance, process) (rate(process_cpu_seconds_total{@}[R]))", "{{instance}} {{process}}")],
                stacked=True,
            ),
            Panel(
                "Memory",
                [("process_resident_memory_bytes{@}", "{{instance}} {{process}}")],
                "bytes",
                "Resident; what processes share counts for each of them.",
            ),
            Panel("Open files", [("process_open_fds{@}", "{{instance}} {{process}}")]),
            Panel(
                "Memory for requests",
                [("carry_held_bytes{@} / carry_max_held_bytes{@}", "{{instance}}")],
                "percentunit",
                "Of the limit, beyond which requests are refused with 429.",
                red_above=0.8,
            ),
            Panel("Started again", [("sum by (instance) (carry_process_restarts_total{@})", "{{instance}}")]),
            Panel(
                "Models read",
                [
                    (
                        "time() - min by (instance) (carry_models_last_reload_success_timestamp_seconds{@})",
                        "{{instance}}",
                    )
                ],
                "s",
                "Since the last start or reload that succeeded.",
            ),
        ],
    ),
]
DASHBOARDS = {
    "carry": ("Carry: requests and models", OVERVIEW),
    "carry-sessions": ("Carry: sessions, keys and processes", STATE),
}


def dashboard(uid: str) -> dict[str, Any]:
    """A dashboard in Grafana's JSON."""
    title, rows = DASHBOARDS[uid]
    return {
        "uid": uid,
        "title": title,
        "tags": ["carry"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["carry"], "title": "Carry", "asDropdown": False, "keepTime": True}],
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
                _variable("instance", 'label_values(up{job="carry"}, instance)', "Instance"),
                _variable("model", 'label_values(carry_model_info{job="carry"}, model)', "Model"),
            ]
        },
        "panels": list(_panels(rows)),
    }


def _variable(name: str, query: str, label: str) -> dict[str, Any]:
    chosen = {"text": "All", "value": "$__all"}
    source = {"datasource": DATASOURCE, "query": {"query": query, "refId": name}, "refresh": 2}
    return {
        "name": name,
        "type": "query",
        "label": label,
        "includeAll": True,
        "multi": True,
        "current": chosen,
    } | source


def _panels(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    y = number = 0
    for row in rows:
        number += 1
        yield {"id": number, "type": "row", "title": row.title, "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}}
        y += 1
        height, width = (4, 8)[row.panels[0].kind == "timeseries"], COLUMNS // row.per_line
        for i, panel in enumerate(row.panels):
            number += 1
            position = {"x": i % row.per_line * width, "y": y + i // row.per_line * height, "w": width, "h": height}
            yield {"id": number, "gridPos": position} | _panel(panel)
        y += -(-len(row.panels) // row.per_line) * height


def _panel(panel: Panel) -> dict[str, Any]:
    lines = panel.kind == "timeseries"
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_above is not None:
        steps.append({"color": "red", "value": panel.red_above})
    if panel.red_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.red_below}]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if lines:
        defaults["color"] = {"mode": "palette-classic"}
        defaults["custom"] = {"fillOpacity": 10, "showPoints": "never"}
        if panel.stacked:
            defaults["custom"] = {"fillOpacity": 40, "showPoints": "never", "stacking": {"mode": "normal"}}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"tooltip": {"mode": "multi", "sort": "desc"}}
        if lines
        else {"reduceOptions": {"calcs": ["lastNotNull"]}},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": _expression(expr), "legendFormat": legend}
            for i, (expr, legend) in enumerate(panel.queries)
        ],
    }


def _expression(text: str) -> str:
    return text.replace("@", 'job="carry",instance=~"$instance"').replace("[R]", "[$__rate_interval]")


def text_of(uid: str) -> str:
    """The file of a dashboard: a line for each panel."""
    whole = dashboard(uid)
    panels = ",\n".join(json.dumps(panel) for panel in whole.pop("panels"))
    head = json.dumps(whole, indent=1).removesuffix("\n}")
    return f'{head},\n "panels": [\n{panels}\n ]\n}}\n'


if __name__ == "__main__":
    for uid in DASHBOARDS:
        (FOLDER / f"{uid}.json").write_text(text_of(uid))
