"""The command line, which runs flows and asks the lake; `ttame --help` lists the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from importlib import metadata
from inspect import cleandoc
from typing import Annotated

import typer

from flows.cli.catalogue import backbones, explainers, metrics
from flows.cli.exports import export_dataset, export_mlflow
from flows.cli.heads import export_head, import_head
from flows.cli.images import explain_image
from flows.cli.maps import import_maps
from flows.cli.results import audits, compare, query, show, verify
from flows.cli.stages import evaluate, explain, fit_backbone, shard, sweep, train
from flows.cli.start import audit, doctor, init, status
from flows.stopping import said, stop_on_signals
from tasks import logs
from tasks.standard_error import messages_alone
from ttame_core.errors import UserError
from ttame_core.stopping import asked

CONTENTS: dict[str, tuple[Callable[..., None], ...]] = {
    "Start here": (init, doctor, audit, status),
    "What came out": (query, audits, compare, show, verify),
    "Single pictures": (explain_image,),
    "What there is to choose from": (backbones, explainers, metrics),
    "The stages of an audit, alone": (shard, fit_backbone, train, sweep, explain, evaluate),
    "Heads and maps of others, and for others": (
        *(import_maps, import_head),
        *(export_head, export_dataset, export_mlflow),
    ),
}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


class LogFormat(StrEnum):
    """The forms that messages on standard error can have."""

    text = "text"
    json = "json"


def _say_version(asked_for: bool) -> None:
    if asked_for:
        typer.echo(f"ttame {metadata.version('ttame')}")
        raise typer.Exit


@app.callback(
    help="Where in the image did the decision come from, and how far can that be trusted?"
)
def choose(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="say nothing but the outcome and errors")
    ] = False,
    log_format: Annotated[
        LogFormat, typer.Option(help="messages on standard error: text, or a JSON object a line")
    ] = LogFormat.text,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="say the version"),
    ] = False,
) -> None:
    """Choose how much all commands say, and in which form."""
    logs.choose(quiet, log_format)


def add(section: str, command: Callable[..., None]) -> None:
    """Add a command to a section of `ttame --help`.

    Args:
        section: heading of the section.
        command: function whose docstring is the command's help and ends with examples, a line each.
    """
    words, _, examples = cleandoc(command.__doc__ or "").partition("Examples:\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in words.strip().split("\n\n")]
    shown = "\n".join(["Examples:", *(f"  {line.strip()}" for line in examples.splitlines())])
    app.command(
        help=_literally("\n\n".join(paragraphs)),
        epilog=_literally(shown),
        rich_help_panel=section,
    )(messages_alone()(command))


def _literally(text: str) -> str:
    """Escape the brackets of a text, which rich would take for markup."""
    return text.replace("[", "\\[")


for section, commands in CONTENTS.items():
    for command in commands:
        add(section, command)


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2.

    Stopped by a signal, it ends with 128 and the signal's number: 130 for Ctrl-C.
    """
    stop_on_signals()
    logs.speak_ascii()
    try:
        app()
    except UserError as error:
        if asked() is None:
            logs.say(str(error), "error")
            sys.exit(2)
    except BaseException:
        if asked() is None:
            raise
    if stopped := asked():  # whatever came of it in the libraries that were interrupted
        said.set()
        logs.say(str(stopped), "error")
        sys.exit(128 + stopped.signal)
