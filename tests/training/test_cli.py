"""The help of the verbs that train, measure and forecast."""

from collections.abc import Iterator
from typing import Any

import typer

from carry.forecast_verb import forecast
from training.cli import evaluate, train


def help_texts(command: Any) -> Iterator[str]:
    """The help of all options of a command and of its commands. (Typer has a click of its own, without types.)"""
    yield from (getattr(option, "help", None) or "" for option in command.params)
    for inner in getattr(command, "commands", {}).values():
        yield from help_texts(inner)


def test_no_help_has_brackets_which_a_terminal_would_swallow() -> None:
    app = typer.Typer()
    app.add_typer(train, name="train")
    for verb in (evaluate, forecast):
        app.command()(verb)
    texts = list(help_texts(typer.main.get_command(app)))
    assert len(texts) > 50
    assert [text for text in texts if "[" in text] == []
