"""Progress for people: a bar on the terminal, an artifact on the Prefect page."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

ARTIFACT_SECONDS = 3.0  # between updates of an artifact

console = Console(stderr=True)
_bars = Progress(
    TextColumn("{task.description}"),
    BarColumn(bar_width=24),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[text]}", style="dim"),
    console=console,
    transient=True,
)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[..., None]]:
    """Give `report(done, text="")`, shown as a bar and as a Prefect progress artifact.

    For use in a flow or a task run. The artifact is a courtesy: where the server does not answer,
    the work goes on without it.
    """
    bar = None
    if sys.stderr.isatty():
        _bars.start()
        bar = _bars.add_task(title, total=total, text="")
    artifact = _quietly(
        create_progress_artifact,
        progress=0.0,
        key=re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-"),
        description=title,
    )
    last = time.monotonic()

    def report(done: int, text: str = "") -> None:
        nonlocal last
        if bar is not None:
            _bars.update(bar, completed=done, text=text)
        if artifact and (done >= total or time.monotonic() - last > ARTIFACT_SECONDS):
            last = time.monotonic()
            share = 100.0 * done / max(total, 1)
            _quietly(update_progress_artifact, artifact_id=artifact, progress=min(share, 100.0))

    try:
        yield report
    finally:
        if bar is not None:
            _bars.remove_task(bar)
            if not _bars.tasks:
                _bars.stop()


def _quietly(call: Callable[..., object], **arguments: object) -> object | None:
    try:
        return call(**arguments)
    except (PrefectException, OSError):
        return None
    except Exception as error:  # httpx errors, without importing httpx for their names
        if type(error).__module__.split(".")[0] in ("httpx", "httpcore"):
            return None
        raise
