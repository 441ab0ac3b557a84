"""Progress that people see: a bar on the terminal, lines in the log, an artifact of Prefect."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tasks.logs import event, for_people

ARTIFACT_SECONDS = 3.0  # between updates of an artifact
LOG_SECONDS = 30.0  # between lines in the log, where there is no terminal


class _Rate(ProgressColumn):
    """A column with the number of units a second, or a minute where that is less than one."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        what = task.fields["unit"]
        text = f"{speed:.3g} {what}/s" if speed >= 1 else f"{60 * speed:.3g} {what}/min"
        return Text(text, style="progress.data.speed")


console = Console(stderr=True)
_bars = Progress(
    TextColumn("{task.description}"),
    BarColumn(bar_width=24),
    MofNCompleteColumn(),
    _Rate(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[text]}", style="dim"),
    console=console,
    transient=True,
)


Report = Callable[[int, int, str], None]


@contextmanager
def bar(title: str, unit: str) -> Iterator[Report]:
    """Show a bar on the terminal.

    Until the first report the bar has no length. Without a terminal, reports have no effect.

    Args:
        title: title of the bar.
        unit: plural name of what is counted, for the rate.

    Yields:
        The function `report(done, total, text)`, which moves the bar.
    """
    if parent_process() or not for_people():  # only the main process shows bars
        yield lambda done, total, text: None
        return
    shown = _bars.add_task(title, total=None, text="", unit=unit)
    _bars.start()
    try:
        yield lambda done, total, text: _bars.update(shown, completed=done, total=total, text=text)
    finally:
        _bars.remove_task(shown)
        if not _bars.tasks:
            _bars.stop()


@contextmanager
def on_shard(stage: str, shard: str, of: str, images: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of the images of a shard, and write a line into the log at the end.

    Args:
        stage: explain or evaluate.
        shard: name of the shard.
        of: name of the backbone.
        images: number of images in the shard.

    Yields:
        The function `done(images)`, which moves the bar.
    """
    title, begun = f"{stage} {shard} of {of}", time.monotonic()
    with bar(title, "images") as report:
        yield lambda done: report(done, images, "")
    seconds = time.monotonic() - begun
    words = f"{title}: {images} images in {seconds:.1f} s"
    event(words, shard=shard, images=images, seconds=round(seconds, 3))


@contextmanager
def progress(title: str, unit: str) -> Iterator[Report]:
    """Show a bar and a progress artifact of the running flow or task, and write lines into the log.

    The log has a line at the end and, without a terminal, one every LOG_SECONDS. Where the Prefect
    server does not answer, the work goes on without the artifact.

    Args:
        title: title of the bar.
        unit: plural name of what is counted.

    Yields:
        The function `report(done, total, text)`, which moves the bar.
    """
    artifact = quietly(
        create_progress_artifact,
        progress=0.0,
        key=re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-"),
        description=title,
    )
    begun = last = logged = time.monotonic()
    counted = 0

    with bar(title, unit) as show:

        def report(done: int, total: int, text: str) -> None:
            nonlocal last, logged, counted
            show(done, total, text)
            counted = done
            if not for_people() and time.monotonic() - logged > LOG_SECONDS:
                logged = time.monotonic()
                _log(title, unit, done, total, text, logged - begun)
            if artifact and (done >= total or time.monotonic() - last > ARTIFACT_SECONDS):
                last = time.monotonic()
                share = 100.0 * min(done / max(total, 1), 1.0)
                quietly(update_progress_artifact, artifact_id=artifact, progress=share)

        yield report
    if counted:
        seconds = time.monotonic() - begun
        fields = {unit: counted, "seconds": round(seconds, 3)}
        event(f"{title}: {counted} {unit} in {seconds:.1f} s", **fields)


def _log(title: str, unit: str, done: int, total: int, text: str, seconds: float) -> None:
    """Write into the log how much is done, and how long the rest takes at the rate so far."""
    left = seconds / done * (total - done) if done else None
    fields = {unit: done, "total": total, "seconds": round(seconds, 3)}
    words = f"{title}: {done} of {total} {unit}"
    if left is not None:
        fields["seconds_left"] = round(left)
        words += f", {left:.0f} s left"
    event(f"{words}, {text}" if text else words, **fields)


def quietly(call: Callable[..., object], **arguments: object) -> object | None:
    """Call a function of Prefect; returns None where the server does not answer."""
    try:
        return call(**arguments)
    except (PrefectException, OSError):
        return None
    except Exception as error:  # httpx errors, without importing httpx for their names
        if type(error).__module__.split(".")[0] in ("httpx", "httpcore"):
            return None
        raise
