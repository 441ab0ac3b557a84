"""`ttame --help` is a table of contents, and each command's help has examples that hold."""

from __future__ import annotations

import re
import shlex

import pytest
import typer.main
from typer.testing import CliRunner

import ttame_core as tt
from flows.cli import CONTENTS, app

COMMANDS = typer.main.get_command(app).commands
WIDE = {"COLUMNS": "160", "TERMINAL_WIDTH": "160"}


def test_the_table_of_contents() -> None:
    shown = CliRunner().invoke(app, ["--help"], env=WIDE).stdout
    places = [shown.index(f"─ {section} ─") for section in CONTENTS]
    assert places == sorted(places)
    listed = re.findall(r"│ ([a-z][a-z-]*)  ", shown)
    assert listed == [f.__name__.replace("_", "-") for part in CONTENTS.values() for f in part]
    assert set(COMMANDS) == set(listed)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_shown_and_can_be_typed(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], env=WIDE).stdout
    examples = re.findall(r"^ +(ttame .*\S)", shown.partition("Examples:")[2], re.MULTILINE)
    assert examples
    for example in examples:
        typed = shlex.split(re.sub(r"\$\(.*\)", "KEY", example))
        assert typed[:2] == ["ttame", name]
        COMMANDS[name].make_context(name, typed[2:])  # raises where an option is not there


def test_the_version_is_that_of_the_package() -> None:
    said = CliRunner().invoke(app, ["--version"])
    assert (said.exit_code, said.stdout) == (0, f"ttame {tt.__version__}\n")


def test_brackets_are_no_markup() -> None:
    shown = CliRunner().invoke(app, ["query", "--help"], env=WIDE).stdout
    assert "[default: table]" in shown
    assert "[env var: TTAME_WORKSPACE]" in shown
