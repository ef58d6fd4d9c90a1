"""Every setting of service/settings.py, as the tables of docs/operating.md; tests.docs.write writes them."""

import ast
import inspect
import itertools
import re
from typing import get_args

from pydantic.fields import FieldInfo

from service.settings import Settings
from tests.docs.blocks import ROOT

PAGE = ROOT / "docs/operating.md"
BEGIN, END = "<!-- settings, from service/settings.py: begin -->", "<!-- settings: end -->"
GROUPS = {
    "The address and the page": ("host", "port", "metrics_port", "page"),
    "Proxies, browsers and TLS": ("root_path", "trusted_proxies", "cors_", "tls_"),
    "Models and processes": ("models_dir", "default_", "processes", "threads", "precision"),
    "Sessions": ("session_", "max_session", "idempotency_ttl"),
    "Keys, the log and traces": ("api_keys", "state_key", "log_", "otlp_"),
    "Limits": ("",),
}
"""Headings, each with the beginnings of the names below it. A setting is below the first heading that fits."""


def tables() -> str:
    """The tables, in Markdown."""
    docstrings = _docstrings()
    rows: dict[str, list[str]] = {heading: [] for heading in GROUPS}
    for name, setting in Settings.model_fields.items():
        heading = next(heading for heading, beginnings in GROUPS.items() if name.startswith(beginnings))
        rows[heading].append(
            f"| `CARRY_{name.upper()}` | {_default(setting)} | {_meaning(setting, docstrings[name])} |"
        )
    head = ["| variable | default | what |", "|---|---|---|"]
    return "\n\n".join("\n".join([f"### {heading}", "", *head, *rows[heading]]) for heading in GROUPS)


def page() -> str:
    """The page with the tables as they should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def write() -> None:
    """Write the tables into the page."""
    PAGE.write_text(page())


def _default(setting: FieldInfo) -> str:
    if setting.default_factory is not None or setting.default in (None, ()):
        return ""
    default = setting.default
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    return f"`{','.join(default) if isinstance(default, tuple) else default}`"


def _docstrings() -> dict[str, str]:
    """The docstring of each field."""
    [settings] = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(settings, ast.ClassDef)
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(settings.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _meaning(setting: FieldInfo, docstring: str) -> str:
    """Its docstring on one line, after the accepted values."""
    text = re.sub(r"\s+", " ", docstring).strip()
    accepted = [value for value in get_args(setting.annotation) if isinstance(value, str)]
    if accepted:
        text = f"{' or '.join(f'`{value}`' for value in accepted)}. {text}"
    return text.replace("|", "\\|").replace("<", "&lt;")
