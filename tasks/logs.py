"""Messages on standard error: lines for people, or one JSON object an event for machines.

The choice is kept in environment variables, so that worker processes find it too. It is made before
Prefect is imported, because Prefect then prints its records through `Lines`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from tasks.names import names_of
from ttame_core.errors import printable

QUIET, FORMAT = "TTAME_QUIET", "TTAME_LOG_FORMAT"
STYLES = {"warning": "yellow", "error": "red", "critical": "red"}

console = Console(stderr=True, highlight=False, soft_wrap=True)


def choose(quiet: bool, log_format: str) -> None:
    """Choose the form of messages for this process and those that it starts.

    Args:
        quiet: leave out everything but the outcome and errors.
        log_format: text or json.
    """
    os.environ[QUIET] = "1" if quiet else ""
    os.environ[FORMAT] = log_format
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS"] = "tasks.logs.Lines"
    if log_format == "json":  # also on a terminal, where bars would show these messages
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "INFO"


def is_quiet() -> bool:
    """Say whether nothing but the outcome and errors is wanted."""
    return bool(os.environ.get(QUIET))


def is_json() -> bool:
    """Say whether messages are JSON objects."""
    return os.environ.get(FORMAT) == "json"


def for_people() -> bool:
    """Say whether progress bars are shown: on a terminal, unless quiet or JSON was chosen."""
    return sys.stderr.isatty() and not is_quiet() and not is_json()


def say(message: str, level: str = "info") -> None:
    """Print a sentence of the command line; with --quiet, warnings are left out.

    Args:
        message: the sentence.
        level: info, warning or error.
    """
    if level == "warning" and is_quiet():
        return
    if is_json():
        _write({"time": _time(time.time()), "level": level, "message": message})
    else:
        console.print(printable(message), style=STYLES.get(level), markup=False)


def event(message: str, **fields: Any) -> None:
    """Write a line into the log of the Prefect run that calls this function.

    Args:
        message: the line.
        **fields: further fields of the line where messages are JSON objects.
    """
    from prefect import get_run_logger

    get_run_logger().info(message, extra={"event": fields})


class Lines(logging.StreamHandler):
    """A handler that prints Prefect's log records, without those that repeat others."""

    def __init__(self, stream: Any = None, styles: Any = None) -> None:
        super().__init__(stream)

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, unless it only repeats others."""
        try:
            if _says_nothing(record):
                return
            if is_json():
                _write(_fields(record))
            else:
                style = STYLES.get(record.levelname.lower())
                console.print(_text(record), style=style, markup=False)
        except Exception:
            self.handleError(record)


def _says_nothing(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    if message.startswith(("Crash detected!", "Finished in state Crashed(")):
        return True  # Prefect on a process that was stopped, which says so itself
    if is_quiet():  # only defects, which have a traceback: mistakes are told when the command ends
        return record.levelno < logging.ERROR or not record.exc_info
    if record.name.startswith("prefect.flow_runs"):
        return message.startswith(("Beginning ", "Finished in state "))
    return message.startswith(("Finished in state Completed(", "Finished in state Skipped("))


def _text(record: logging.LogRecord) -> str:
    run = _run(record)
    about = f"{run}: " if run and not hasattr(record, "event") else ""
    level = f"{record.levelname} " if record.levelno > logging.INFO else ""
    line = f"{datetime.fromtimestamp(record.created):%H:%M:%S} {level}{about}{_message(record)}"
    return f"{line}\n{_traceback(record)}" if record.exc_info else line


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {"time": _time(record.created), "level": record.levelname.lower()}
    if run := _run(record):
        of_task = names_of(run) if getattr(record, "task_run_name", None) else None
        fields |= of_task or {"stage": run.split()[0]}  # a flow run's name begins with its verb
        fields["run"] = run
    fields |= {**getattr(record, "event", {}), "message": _message(record)}
    if record.exc_info:
        fields["traceback"] = _traceback(record)
    return fields


def _run(record: logging.LogRecord) -> str:
    """Return the name of the task run or flow run that a record is from."""
    return getattr(record, "task_run_name", None) or getattr(record, "flow_run_name", None) or ""


def _message(record: logging.LogRecord) -> str:
    return printable(" ".join(record.getMessage().split()))


def _traceback(record: logging.LogRecord) -> str:
    return logging.Formatter().formatException(record.exc_info)  # type: ignore[arg-type]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _write(fields: dict[str, Any]) -> None:
    # One call, so that the lines of processes that share a stream do not mix.
    sys.stderr.write(json.dumps(fields, ensure_ascii=False, default=str) + "\n")
    sys.stderr.flush()
