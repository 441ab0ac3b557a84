"""Standard error: JSON for machines, quiet for scripts, bars on a terminal."""

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks import logs

Run = Callable[..., subprocess.CompletedProcess]
Emit = Callable[..., None]


@pytest.fixture
def emit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emit]:
    """Hand a record of a task run or flow run to the handler, as Prefect does."""
    for name in (logs.QUIET, logs.FORMAT):
        monkeypatch.setenv(name, "")

    def emit(message: str, level: int = logging.INFO, **extra: Any) -> None:
        of = "task_runs" if "task_run_name" in extra else "flow_runs"
        error = extra.pop("error", None)
        exc_info = (type(error), error, None) if error else None
        record = logging.LogRecord(f"prefect.{of}", level, "", 0, message, (), exc_info)
        record.__dict__.update(extra)
        logs.Lines().emit(record)

    return emit


def test_json_has_an_object_a_line_and_one_of_each_shard(
    ttame: Run, spec_file: Path, tmp_path: Path
) -> None:
    result = ttame("--log-format", "json", "shard", spec_file)
    assert result.returncode == 0, result.stderr
    said = [json.loads(line) for line in result.stderr.splitlines()]
    assert all({"time", "level", "message"} <= line.keys() for line in said)
    shards = [line for line in said if "shard" in line]
    written = {p.stem for p in (tmp_path / "workspace").glob("datasets/drawn/shards/*.tar")}
    assert sorted(line["shard"] for line in shards) == sorted(written)
    for line in shards:
        assert (line["stage"], line["dataset"], line["level"]) == ("shard", "drawn", "info")
        assert line["seconds"] >= 0
    (stage,) = (line for line in said if "shards" in line)
    assert (stage["shards"], stage["run"]) == (len(written), "shard small")

    mistaken = ttame("--log-format", "json", "train", "nowhere.yaml")
    assert mistaken.returncode == 2
    (error,) = map(json.loads, mistaken.stderr.splitlines())
    assert error["level"] == "error"
    assert "nowhere.yaml" in error["message"]


def test_what_json_says(
    emit: Emit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(logs.FORMAT, "json")
    run = "train ttame on net"
    emit("a\nb", logging.WARNING, task_run_name=run, event={"steps": 3})
    emit("broke", logging.ERROR, flow_run_name="explain my audit", error=ValueError("why"))
    logs.say("wrote [x]")
    first, second, third = map(json.loads, capsys.readouterr().err.splitlines())
    del first["time"]
    assert first == {
        "level": "warning",
        "stage": "train",
        "explainer": "ttame",
        "backbone": "net",
        "run": run,
        "steps": 3,
        "message": "a b",
    }
    assert (second["stage"], second["level"]) == ("explain", "error")
    assert "ValueError: why" in second["traceback"]
    assert (third["level"], third["message"]) == ("info", "wrote [x]")


def test_lines_for_people_do_not_say_things_twice(
    emit: Emit, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "explain test-000000 of net"
    emit("Finished in state Completed()", task_run_name=name)
    emit("Beginning flow run 'audit a' for flow 'audit_zoo'", flow_run_name="audit a")
    emit(f"{name}: 8 images in 1.0 s", task_run_name=name, event={"images": 8})
    emit("few steps", logging.WARNING, task_run_name="train ttame on net")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(f" {name}: 8 images in 1.0 s")
    assert first.count(name) == 1
    assert second.endswith(" WARNING train ttame on net: few steps")


def test_quiet_leaves_the_outcome_errors_and_defects(
    emit: Emit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(logs.QUIET, "1")
    emit("8 images", task_run_name="explain test-000000 of net")
    emit("Finished in state Failed('a mistake')", logging.ERROR, task_run_name="fit net")
    logs.say("a note", "warning")
    assert capsys.readouterr().err == ""
    emit("broke", logging.ERROR, flow_run_name="fit a", error=ValueError("why"))
    logs.say("report: here")
    logs.say("no such file", "error")
    said = capsys.readouterr().err
    for words in ("ValueError: why", "report: here", "no such file"):
        assert words in said


LIBRARIES = """
import logging, sys, warnings
from tasks import logs
logs.speak_ascii()
logs.choose(sys.argv[1] == "quiet", sys.argv[1] if sys.argv[1] != "quiet" else "text")
logging.getLogger("timm.models").error("No checkpoint found")
logging.getLogger("somebody").warning("careful")
logging.getLogger("somebody").info("nothing")
warnings.warn("soon gone", FutureWarning)
logs.say("done ✓ → José")
"""


def _said(how: str, code: str = LIBRARIES, **environment: str) -> str:
    command = [sys.executable, "-c", code, how]
    env = os.environ | environment
    done = subprocess.run(command, env=env, capture_output=True, check=True)
    return done.stderr.decode(environment.get("PYTHONIOENCODING", "utf-8"))


def test_libraries_speak_json_and_are_quiet_where_that_was_chosen() -> None:
    said = list(map(json.loads, _said("json").splitlines()))
    assert [line["level"] for line in said] == ["error", "warning", "warning", "info"]
    assert [line["message"] for line in said[:2]] == ["No checkpoint found", "careful"]
    assert "soon gone" in said[2]["message"]
    assert _said("quiet").splitlines() == ["done ✓ → José"]
    for words in ("No checkpoint found", "careful", "soon gone"):
        assert words in _said("text")


NOISE = """
import os, subprocess, sys
from tasks import logs
from tasks.standard_error import messages_alone
logs.choose(sys.argv[1] == "quiet", sys.argv[1] if sys.argv[1] != "quiet" else "text")
with messages_alone():
    os.write(2, b"TIFFReadDirectory: Warning\\n")
    print("printed", file=sys.stderr)
    child = "import sys; sys.stderr.write('of a child')"
    subprocess.run([sys.executable, "-S", "-c", child])
    logs.say("done", "error")
logs.say("over", "error")
"""


def test_what_libraries_write_by_themselves_is_a_message_or_nothing() -> None:
    said = list(map(json.loads, _said("json", code=NOISE).splitlines()))
    written = {"TIFFReadDirectory: Warning", "printed", "of a child"}
    assert {line["message"] for line in said} == {*written, "done", "over"}
    assert said[-1]["message"] == "over"
    assert _said("quiet", code=NOISE).splitlines() == ["done", "over"]
    assert written <= {*_said("text", code=NOISE).replace("childdone", "child\ndone").splitlines()}


def test_a_terminal_without_utf8_gets_ascii() -> None:
    assert _said("quiet", PYTHONIOENCODING="ascii").splitlines() == ["done + -> Jose"]
    assert _said("quiet", PYTHONIOENCODING="latin-1").splitlines() == ["done + -> José"]


BARS = """
import time
from tasks.progress import bar
with bar("explain test-000000 of net", "images") as report:
    for done in range(1, 5):
        time.sleep(0.3)
        report(done, 40, "")
"""


@pytest.mark.parametrize("quiet", ["", "1"])
def test_bars_on_a_terminal_have_rate_and_time_left(quiet: str) -> None:
    ours, theirs = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "120", logs.QUIET: quiet, logs.FORMAT: "text"}
    subprocess.run([sys.executable, "-c", BARS], env=env, stderr=theirs, check=True)
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    assert (b"images/s" in shown or b"images/min" in shown) is not bool(quiet)
    assert (b"/40" in shown) is not bool(quiet)
    assert (b"0:00:" in shown) is not bool(quiet)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody writes to it any more
        return b""
