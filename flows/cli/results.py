"""Commands that ask a workspace what audits left there."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import HERE, Format, Memory, Output, Workspace, out
from tasks.logs import say
from ttame_core.errors import writing
from ttame_core.imports import quickly
from ttame_core.lake import Lake


def query(
    sql: Annotated[str, typer.Argument(help="one SELECT; docs/report.md lists the views")],
    workspace: Workspace = HERE,
    format: Format = "table",
    output: Output = None,
    memory: Annotated[str, typer.Option(help="that the query may take, such as 500MB")] = "2GB",
    rows: Annotated[int, typer.Option(help="that the answer may have")] = 1_000_000,
    seconds: Annotated[float, typer.Option(help="that the query may take")] = 600,
) -> None:
    """Ask the lake anything in SQL; the query can only read.

    Examples:
        ttame query "SELECT * FROM leaderboard ORDER BY metric, value"
        ttame query "FROM leaderboard WHERE metric = 'AD@15'" --format csv
        ttame query "FROM metric_values" --format parquet --output values.parquet
    """
    from flows.cli.bounds import held_to
    from ttame_core.lake.query.connection import Limits, run_query
    from ttame_core.lake.query.formats import write_result

    lake = Lake(workspace)
    limits = Limits(memory, rows, seconds)
    with held_to(limits):
        table = run_query(lake, sql, limits)
    if not lake.entries("datasets"):
        say(f"the workspace {lake} is empty: name another with --workspace, if you mean another")
    write_result(table, format, output)


def audits(
    name: Annotated[str | None, typer.Argument(help="default: all", metavar="NAME")] = None,
    workspace: Workspace = HERE,
    format: Format = "table",
    output: Output = None,
    memory: Memory = "4GB",
) -> None:
    """List the audits of a workspace: when they ran, what failed, and their headline.

    Examples:
        ttame audits
        ttame audits my-audit --format json
    """
    from flows.cli.bounds import reading
    from ttame_core.audits import history
    from ttame_core.lake.query.formats import write_result

    with reading(memory):
        listed = history.audits(Lake(workspace), name)
    write_result(listed, format, output)


def compare(
    a: Annotated[str, typer.Argument(help="an explainer, a backbone, or an audit", metavar="A")],
    b: Annotated[
        str,
        typer.Argument(
            help="another one; audits are NAME@latest, NAME@previous or NAME/TIME", metavar="B"
        ),
    ],
    workspace: Workspace = HERE,
    dataset: Annotated[str | None, typer.Option(help="default: all")] = None,
    format: Format = "table",
    output: Output = None,
    memory: Memory = "4GB",
) -> None:
    """Say which of two is better at what: paired by image, with intervals and p-values.

    Examples:
        ttame compare ttame gradcam
        ttame compare resnet50 vit_base_patch16_224 --dataset birds
        ttame compare my-audit@previous my-audit@latest --format csv
    """
    from flows.cli.bounds import reading
    from ttame_core.audits import comparison
    from ttame_core.lake.query.formats import write_result
    from ttame_core.report.tables import comparison_table

    with reading(memory):
        compared = comparison.compare(Lake(workspace), a, b, dataset)
    if format == "table" and output is None:
        out().print(comparison_table(compared))
    else:
        write_result(compared.rows, format, output)


def verify(
    audit: Annotated[
        str | None,
        typer.Argument(help="whose records are looked at; default: all", metavar="AUDIT"),
    ] = None,
    workspace: Workspace = HERE,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="also read the pictures that data sets were made from")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="remove what the next audit makes again")
    ] = False,
    format: Format = "table",
    output: Output = None,
    memory: Memory = "4GB",
) -> None:
    """Check that all files are as ttame wrote them, fit together, and are complete.

    The exit code is 0 where all is well, and 1 otherwise. Where all is well, the hash of each
    audit's last record is said: kept elsewhere, or signed, it tells whether anything was changed.

    Examples:
        ttame verify
        ttame verify my-audit --repair
        ttame verify --pixels
    """
    with quickly():
        from flows.cli.bounds import reading
        from ttame_core.audits import verify as verifying
        from ttame_core.lake.query.formats import write_result

    lake = Lake(workspace)
    with reading(memory):
        faults = verifying.verify(lake, audit, pixels)
    if not faults:
        say(f"all files of {lake} are what ttame wrote, made from one another, and complete")
        for last in verifying.last_records(lake, audit):
            say(f"audits/{last.record}/record.json has the SHA-256 {last.sha256}")
        return
    write_result(verifying.faults_table(faults), format, output)
    if repair:
        removed = verifying.repair(lake, faults)
        say(f"removed {len(removed)} files, which the next audit makes again")
    raise typer.Exit(1)


def show(
    keys: Annotated[list[str], typer.Argument(help="keys of samples (see the view `samples`)")],
    workspace: Workspace = HERE,
    dataset: Annotated[str | None, typer.Option(help="default: the one that has the keys")] = None,
    backbone: Annotated[list[str] | None, typer.Option(help="default: all with maps")] = None,
    explainer: Annotated[list[str] | None, typer.Option(help="default: all with maps")] = None,
    output: Annotated[str, typer.Option(help="PNG to write")] = "ttame.png",
) -> None:
    """Draw image, boxes, map and overlay for each backbone and explainer.

    Examples:
        ttame show dog-042-1f3a5c7e9b2d
        ttame show $(ttame query "FROM samples SELECT key LIMIT 4" --format csv | tail -n +2)
        ttame show dog-042-1f3a5c7e9b2d --backbone resnet50 --explainer ttame --output dog.png
    """
    from ttame_core.lake.query.connection import connect
    from ttame_core.report.pictures import find_samples, show_samples

    lake = Lake(workspace)
    with connect(lake) as db:
        drawn = show_samples(find_samples(lake, db, keys, dataset, backbone, explainer))
    with writing(output) as file:
        drawn.save(file)
    say(f"wrote {output}")
