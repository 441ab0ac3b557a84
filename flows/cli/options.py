"""Options that many commands take, and the console that they print on."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

HERE = "./workspace"

Spec = Annotated[str, typer.Argument(help="YAML file that describes the audit", metavar="SPEC")]
Workspace = Annotated[
    str,
    typer.Option(
        "--workspace", envvar="TTAME_WORKSPACE", help="folder or URL of the lake", metavar="PLACE"
    ),
]
Variables = Annotated[
    list[str] | None,
    typer.Option("--var", help="fill ${NAME} in the spec; may be repeated", metavar="NAME=VALUE"),
]
Format = Annotated[str, typer.Option(help="table, markdown, csv, json or parquet")]
Memory = Annotated[
    str, typer.Option(help="that reading the workspace may take, such as 500MB", metavar="SIZE")
]
Output = Annotated[str | None, typer.Option(help="file to write; default: the terminal")]


def out(width: int = 160) -> Console:
    """Make the console that answers are printed on.

    Args:
        width: number of characters in a line where the output is no terminal.
    """
    return Console(width=None if sys.stdout.isatty() else width)
