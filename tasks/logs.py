"""Messages on standard error: lines for people, or one JSON object an event for machines.

The choice is kept in environment variables, so that worker processes find it too. It is made before
Prefect is imported, because Prefect then prints its records through `Lines`.
"""

from __future__ import annotations

import codecs
import json
import logging
import os
import sys
import time
import unicodedata
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from tasks.names import names_of
from ttame_core.errors import printable

# What Latin letters without marks stand in for, on a terminal that cannot show more.
ASCII = {"✓": "+", "✗": "x", "×": "x", "→": "->", "–": "-", "—": "-", "−": "-", "±": "+-"}
ASCII |= {"≥": ">=", "≤": "<=", "ρ": "rho", "δ": "delta", "λ": "lambda", "│": "|", "─": "-"}

QUIET, FORMAT = "TTAME_QUIET", "TTAME_LOG_FORMAT"
STYLES = {"warning": "yellow", "error": "red", "critical": "red"}

# How messages begin that Prefect adds to what was said of a process that was stopped.
REPEATING = ("Crash detected!", "Finished in state Crashed(")

# Libraries that print by themselves, and the variables that silence them.
SILENT_LIBRARIES = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}

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
    for name in ("NO_PROXY", "no_proxy"):  # a temporary server is on this machine
        others = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*others, "127.0.0.1", "localhost"]))
    if log_format == "json":  # also on a terminal, where bars would show these messages
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "INFO"
    if quiet or log_format == "json":
        os.environ |= SILENT_LIBRARIES
    hear_libraries()


def hear_libraries() -> None:
    """Print what libraries log or warn of as messages of this program, in this process.

    Without --quiet and JSON, warnings are printed as Python does.
    """
    lines = Lines()
    lines.setLevel(logging.WARNING)
    logging.lastResort = lines
    if is_quiet() or is_json():
        logging.captureWarnings(True)
        warned = logging.getLogger("py.warnings")
        warned.handlers, warned.propagate = [lines], False


def speak_ascii() -> None:
    """Write what a stream's encoding does not have in ASCII, where Python would raise an error."""
    codecs.register_error("ascii letters", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if (stream.encoding or "").lower().replace("-", "") != "utf8":
            with suppress(AttributeError):  # a stream of another kind, which has no encoding
                stream.reconfigure(errors="ascii letters")  # type: ignore[union-attr]


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = ""
    for character in error.object[error.start : error.end]:
        plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        text += ASCII.get(character) or plain or "?"
    return text, error.end


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
    if message.startswith(REPEATING):
        return True
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
    console.file.write(json.dumps(fields, ensure_ascii=False, default=str) + "\n")
    console.file.flush()


if is_quiet() or is_json():  # in a process that the command line has started
    hear_libraries()
