"""Formats in which the answer to a query is written."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ttame_core.errors import UserError, nearest, printable, writing

FORMATS = ("table", "markdown", "csv", "json", "parquet")
FORMULA = re.compile(r"[=@\t\r]|[+-](?!\d*\Z)")  # how a text begins that could be one
WIDEST_LIST = 6  # elements of a list that a table shows


def write_result(result: pa.Table, format: str = "table", output: str | None = None) -> None:
    """Write a query's answer to a file or to the terminal.

    Args:
        result: the answer.
        format: table, markdown, csv, json or parquet.
        output: file to write; None for the terminal.

    Raises:
        UserError: the format is unknown, or is not for the terminal.
    """
    if format not in FORMATS:
        allowed = ", ".join(FORMATS)
        raise UserError(f"unknown format {format}; allowed: {allowed}." + nearest(format, FORMATS))
    if format == "parquet":
        if output is None:
            raise UserError("parquet cannot be printed on the terminal: name a file with --output")
        with writing(output) as path:
            pq.write_table(result, path)
        return
    text = {"table": _table, "markdown": _markdown, "csv": _csv, "json": _json}[format](
        result, output
    )
    if output is None:
        sys.stdout.write(text)
    else:
        with writing(output) as path:
            path.write_text(text, encoding="utf-8")


def _table(result: pa.Table, output: str | None) -> str:
    table = Table(box=box.SIMPLE_HEAD)
    for field in result.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        table.add_column(Text(field.name), justify="right" if number else "left")
    for row in result.to_pylist():
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    width = None if output is None and sys.stdout.isatty() else 200
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=False).print(table)
    return stream.getvalue()


def _markdown(result: pa.Table, output: str | None) -> str:
    rows = [result.column_names, ["---"] * len(result.column_names)]
    rows += [[_cell(value) for value in row.values()] for row in result.to_pylist()]
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    return "".join(f"| {line} |\n" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        shown = ", ".join(_cell(v) for v in value[:WIDEST_LIST])
        return f"[{shown}{', …' if len(value) > WIDEST_LIST else ''}]"
    return printable(str(value))


def _plain(value: Any) -> Any:
    """Return a cell of CSV; a text that a spreadsheet would take for a formula gets an apostrophe.

    A text that is only a whole number or a single sign stays as it is.
    """
    if isinstance(value, str) and FORMULA.match(value):
        return f"'{value}"
    return value


def _csv(result: pa.Table, output: str | None) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(result.column_names)
    writer.writerows(map(_plain, row.values()) for row in result.to_pylist())
    return stream.getvalue()


def _json(result: pa.Table, output: str | None) -> str:
    return json.dumps(result.to_pylist(), indent=1, default=str, ensure_ascii=False) + "\n"
