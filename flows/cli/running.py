"""The way of a command: read the spec, run a flow, print the outcome, end with an exit code."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer

from flows import temporary_server
from flows.cli.options import out
from tasks.logs import say
from ttame_core.errors import UserError
from ttame_core.imports import library, quickly
from ttame_core.lake import Lake

if TYPE_CHECKING:
    from flows.each_backbone import BackbonesFailed
    from ttame_core.audits.gates import GatesFailed
    from ttame_core.spec import AuditSpec


def read(path: str, variables: list[str] | None) -> AuditSpec:
    """Read the spec in a file, as far as that needs no PyTorch: methods are not checked.

    Args:
        path: path of the YAML file.
        variables: texts of the form NAME=VALUE, which fill `${NAME}` in the file.

    Raises:
        UserError: the spec is wrong, or a variable has no value.
    """
    from ttame_core.spec import load_spec

    return load_spec(path, _pairs(variables))


def load(path: str, variables: list[str] | None) -> AuditSpec:
    """Read the spec in a file, check it, and fill in the defaults of all methods.

    Args:
        path: path of the YAML file.
        variables: texts of the form NAME=VALUE, which fill `${NAME}` in the file.

    Raises:
        UserError: the spec is wrong, or a variable has no value.
    """
    read(path, variables)  # most mistakes are told before the registries import PyTorch
    with quickly():
        from ttame_core.audits.specification import open_spec

    return open_spec(path, _pairs(variables))


def _pairs(variables: list[str] | None) -> dict[str, str]:
    wrong = next((v for v in variables or [] if "=" not in v), None)
    if wrong:
        raise UserError(f"--var {wrong} has no value: write --var {wrong}=VALUE")
    return dict(v.partition("=")[::2] for v in variables or [])


def run(
    name: str, path: str, workspace: str, variables: list[str] | None, /, **options: Any
) -> BackbonesFailed | GatesFailed | None:
    """Run a flow over a spec.

    Args:
        name: name of the flow, which its module in `flows` has as well.
        path: path of the spec.
        workspace: folder or URL of the lake.
        variables: texts of the form NAME=VALUE, which fill `${NAME}` in the file.
        **options: further arguments of the flow.

    Returns:
        The error that names the backbones or gates that failed; None where all went well.
    """
    place = Lake(workspace).place  # before the run begins, so that a refused address is in no run
    read(path, variables)
    temporary_server.begin()
    audit = load(path, variables)
    with quickly():
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from flows import messages
        from flows.each_backbone import BackbonesFailed
        from ttame_core.audits.gates import GatesFailed

        messages.install()
        flow = getattr(import_module(f"flows.{name}"), name)
    if name != "shard_dataset" and temporary_server.is_there():
        with suppress(UserError):  # raised again where timm is needed
            library("timm")  # while the server starts
    temporary_server.wait()
    # A temporary server misses no heartbeats, and what sends them takes up to a second to end.
    hearts = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None} if temporary_server.is_there() else {}
    try:
        with temporary_settings(hearts), temporary_server.no_longer_than_it():
            flow(audit, place, **options)
    except (BackbonesFailed, GatesFailed) as failed:
        return failed
    except RuntimeError as error:
        if "Failed to reach API" not in str(error):
            raise
        raise UserError(
            f"{error}: start that Prefect server, or unset PREFECT_API_URL to do without one"
        ) from error
    return None


def nothing_to_do(audit: AuditSpec, workspace: str) -> bool:
    """Say whether the last record of an audit still holds, in a message as well.

    Neither Prefect nor its temporary server are needed to find out.
    """
    from ttame_core.audits.unchanged import unchanged_record

    record = unchanged_record(Lake(workspace), audit)
    if record:
        time = record.rsplit("/", 1)[1]
        say(f"audit {audit.name}: nothing has changed since {time}, and nothing is left to do")
    return record is not None


def finish(failed: BackbonesFailed | GatesFailed | None) -> None:
    """End the command with the exit code that stands for the failures.

    The code is 2 where all failed backbones failed by a mistake of the user, 1 where others failed,
    and 3 where no backbone failed but a gate did.
    """
    from ttame_core.audits.gates import GatesFailed

    if failed is None:
        return
    if isinstance(failed, GatesFailed):
        raise typer.Exit(3)
    for name, error in failed.failures.items():
        say(f"backbone {name} failed: {error}", "error")
    raise typer.Exit(2 if failed.by_user else 1)


def print_outcome(audit: AuditSpec, workspace: str) -> None:
    """Print the leaderboard, what limits its meaning, and where the report lies."""
    from ttame_core.audits.record import audit_board, audit_refusals
    from ttame_core.report.tables import backbones_table, leaderboard_tables, refusals, warnings

    lake = Lake(workspace)
    board = audit_board(lake, audit)
    console = out()
    console.print(backbones_table(board))
    for table in leaderboard_tables(board, console.width):
        console.print(table)
    for note in refusals(audit_refusals(lake, audit)):
        say(note, "warning")
    for note in warnings(board, audit.evaluation.minimum_discrimination):
        say(note, "warning")
    if records := lake.glob(f"audits/{audit.name}/*/report.html"):
        say(f"report: {workspace}/{records[-1]}")


def print_answers(audit: AuditSpec, workspace: str) -> None:
    """Print the answers at the top of the last report of the audit."""
    from ttame_core.lake.records import records
    from ttame_core.report.listings import answers_table
    from ttame_core.report.rendering import read_answers

    lake = Lake(workspace)
    for folder in records(lake, audit.name)[-1:]:
        out(1000).print(answers_table(read_answers(lake, folder)))  # a line each where it is piped


def print_failed_gates(audit: AuditSpec, workspace: str) -> None:
    """Print a sentence for each gate that failed in the last record of the audit."""
    from ttame_core.audits.record import failed_gates
    from ttame_core.lake.records import records

    lake = Lake(workspace)
    for folder in records(lake, audit.name)[-1:]:
        for row in failed_gates(lake, folder):
            say(f"gate failed: {row['words']}", "error")
