"""`ttame doctor`: whether this machine can run an audit, and what to do where it cannot."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from packaging.requirements import Requirement
from rich.console import Console

from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.storage import without_password

IMPORTED = ("torch", "torchvision", "timm", "prefect", "duckdb", "pyarrow")
ROOM = 5 * 2**30  # bytes; with less the disk may be full before an audit ends
REACH = 5.0  # seconds that a connection of this machine with itself may take
ANSWER = 10.0  # seconds that a Prefect server has to answer
ABOVE = "mend what is broken above first, if anything is; else this is a defect of ttame"
MARKS = {"right": ("✓", "green"), "odd": ("!", "yellow"), "broken": ("✗", "red")}


@dataclass(frozen=True)
class Finding:
    """The result of examining one thing, such as the disk.

    Attributes:
        about: name of the thing.
        words: what was found.
        state: `right`; `broken` where it keeps an audit from running; `odd` where it does not.
        advice: what the user can do about it; empty where all is right.
    """

    about: str
    words: str
    state: Literal["right", "odd", "broken"] = "right"
    advice: str = ""


def print_findings(workspace: str) -> bool:
    """Print a line for each thing that is examined, and return whether an audit can run."""
    out = Console(highlight=False, soft_wrap=True)
    sound = True
    for finding in examine(workspace):
        mark, style = MARKS[finding.state]
        out.print(f"[{style}]{mark}[/] [bold]{finding.about:<13}[/]", end="")
        out.print(finding.words, markup=False)
        if finding.advice:
            out.print(f"{'':15}→ {finding.advice}", style=style, markup=False)
        sound &= finding.state != "broken"
    return sound


def examine(workspace: str) -> Iterator[Finding]:
    """Examine installation, device, workspace and Prefect, each even where another fails."""
    parts: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("installation", installation),
        ("device", device),
        ("workspace", lambda: place(workspace)),
        ("prefect", prefect),
    ]
    for about, part in parts:
        try:
            yield from part()
        except UserError as error:
            yield Finding(about, "cannot be used", "broken", str(error))
        except Exception as error:
            yield Finding(
                about,
                f"{type(error).__name__}: {error}",
                "broken",
                ABOVE,
            )


# ---- the installation ------------------------------------------------------------------------


def installation() -> Iterator[Finding]:
    """Examine Python, the packages that ttame needs, and its extras."""
    python = platform.python_version()
    if sys.version_info < (3, 11):  # noqa: UP036  an old one can still run this file
        yield Finding("python", python, "broken", "ttame needs Python 3.11 or newer")
    else:
        yield Finding("python", f"{python}, {sys.executable}")
    try:
        needed = [Requirement(line) for line in requires("ttame") or []]
        extras = metadata("ttame").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        words = "ttame itself is not installed, though its code is found"
        yield Finding("packages", words, "broken", "in its folder: pip install --editable .")
        return
    lacking = [word for one in needed if _asked_for(one, "") and (word := _lacking(one))]
    if lacking:
        wanted = " ".join(f"'{one}'" for one in lacking)
        yield Finding("packages", "not as needed", "broken", f"pip install {wanted}")
    broken = False
    for name in IMPORTED:
        finding = _import(name)
        yield replace(finding, advice=ABOVE) if broken and finding.advice else finding
        broken |= finding.state == "broken"
    absent = [
        extra
        for extra in extras
        if any(_lacking(one) for one in needed if _asked_for(one, extra) and one.marker)
    ]
    there = ", ".join(sorted({*extras} - {*absent})) or "none"
    how = f"for the others: pip install 'ttame[{','.join(absent)}]'" if absent else ""
    yield Finding("extras", there, "right", how)


def _asked_for(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _lacking(requirement: Requirement) -> str:
    """Return the requirement as pip takes it where it is not met, else an empty text."""
    try:
        met = requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        met = False
    return "" if met else f"{requirement.name}{requirement.specifier}"


def _import(name: str) -> Finding:
    """Examine whether a package can be imported; with a wrong torch, torchvision cannot."""
    try:
        module = import_module(name)
    except Exception as error:
        words = f"cannot be imported: {' '.join(str(error).split())[:200]}"
        together = "torch torchvision" if name.startswith("torch") else name
        return Finding(name, words, "broken", f"pip install --force-reinstall {together}")
    return Finding(name, str(getattr(module, "__version__", version(name))))


# ---- the device ------------------------------------------------------------------------------


def device() -> Iterator[Finding]:
    """Examine the GPUs, and let the device that audits would use compute something."""
    import torch

    from ttame_core.backbones.devices import device_of, precision_of
    from ttame_core.spec import Compute

    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        words = f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
        yield Finding(f"cuda:{number}", words)
    chosen = device_of(Compute())
    try:
        torch.ones(8, 8, device=chosen) @ torch.ones(8, 8, device=chosen)
    except Exception as error:
        words = f"{chosen} does not compute: {error}"
        advice = "install the PyTorch that goes with this driver, or say compute: {device: cpu}"
        yield Finding("device", words, "broken", advice)
        return
    fast = precision_of(Compute(precision="auto"), chosen) is torch.bfloat16
    numbers = "bfloat16 is fast: compute: {precision: auto}" if fast else "float32"
    cores = f" with {os.cpu_count()} cores" if chosen.type == "cpu" else ""
    yield Finding("device", f"{chosen}{cores}, {numbers}", *_unused(chosen.type))


def _unused(chosen: str) -> tuple[Literal["right", "odd"], str]:
    """Say whether this machine has an accelerator that is not used: the finding's state and advice.

    Args:
        chosen: device that audits would use.
    """
    import torch

    if chosen == "cpu" and shutil.which("nvidia-smi"):
        if torch.version.cuda is None:
            return "odd", "this PyTorch is for the CPU only: install one for CUDA to use the GPU"
        return "odd", "PyTorch finds no GPU, though there is a driver: see what nvidia-smi says"
    if chosen == "cpu" and torch.backends.mps.is_available():
        return "right", "Apple's GPU (MPS) is not used: ttame runs on CUDA and on the CPU"
    return "right", ""


# ---- the workspace ---------------------------------------------------------------------------


def place(workspace: str) -> Iterator[Finding]:
    """Examine whether the workspace can be written to, and how much room is left."""
    lake = Lake(workspace)
    if not lake.local:
        yield _bucket(lake)
        return
    folder = Path(lake.root)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        advice = "give a folder: --workspace or TTAME_WORKSPACE"
        yield Finding("workspace", f"{there} is a file", "broken", advice)
        return
    if not _takes_files(there):
        advice = "give another --workspace (or TTAME_WORKSPACE), or the right to write there"
        yield Finding("workspace", f"{there} cannot be written to", "broken", advice)
        return
    made = "" if there == folder else ", which the first command makes"
    yield Finding("workspace", f"{folder}{made}")
    free = shutil.disk_usage(there).free
    words = f"{size(free)} free"
    if free < ROOM:
        yield Finding("disk", words, "odd", "make room: an audit writes shards, maps and scores")
    else:
        yield Finding("disk", words)


def _takes_files(folder: Path) -> bool:
    try:
        with TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _bucket(lake: Lake) -> Finding:
    """Check an object store: write a small file, remove it, and list a folder."""
    probe = f"doctor-{os.getpid()}.json"
    lake.write_json(probe, {})
    lake.remove(probe)
    begun = "" if lake.entries("datasets") else ", which holds no data set yet"
    return Finding("workspace", f"{lake}{begun}")


def size(number: float) -> str:
    """Write a number of bytes for people, such as 3.4 GiB."""
    units = iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while number >= 1024 and (larger := next(units, None)):
        number, unit = number / 1024, larger
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"


# ---- Prefect ---------------------------------------------------------------------------------


def prefect() -> Iterator[Finding]:
    """Examine the Prefect server, or whether a temporary one can be started."""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    yield _server(url) if url else temporary_server()


def temporary_server() -> Finding:
    """Examine whether a temporary Prefect server can be started and reached."""
    from prefect.settings import PREFECT_HOME, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE

    home = Path(PREFECT_HOME.value()).expanduser()
    there = next(path for path in (home, *home.parents) if path.exists())
    if not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        words = "no server, and none may be started"
        advice = "set PREFECT_API_URL, or: prefect config set PREFECT_SERVER_ALLOW_EPHEMERAL_MODE=1"
        return Finding("prefect runs", words, "broken", advice)
    if not _takes_files(there):
        words = f"{there}, where a temporary server keeps its records, cannot be written to"
        return Finding("prefect runs", words, "broken", "set PREFECT_HOME to a folder of yours")
    if reason := _records(home / "prefect.db"):
        words = (
            f"{home / 'prefect.db'}, the records of a temporary server, cannot be used ({reason})"
        )
        advice = "move that file away, or set PREFECT_HOME to a folder of yours"
        return Finding("prefect runs", words, "broken", advice)
    if reason := _loopback():
        words = f"127.0.0.1, where a temporary server would answer, cannot be reached ({reason})"
        advice = "allow connections of this machine with itself, or set PREFECT_API_URL"
        return Finding("prefect runs", words, "broken", advice)
    words = "no PREFECT_API_URL is set: each command starts a temporary server for itself"
    return Finding("prefect runs", words)


def _records(path: Path) -> str:
    """Say why a file of SQLite cannot be used; an empty text where it can, or is not there."""
    if not path.exists():
        return ""
    if not os.access(path, os.W_OK):
        return "it cannot be written to"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as records:
            records.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        return str(error)
    return ""


def _loopback() -> str:
    """Say why this machine cannot connect with itself; an empty text where it can."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=REACH).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _server(url: str) -> Finding:
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    shown = without_password(url)
    advice = "start it (prefect server start), or unset PREFECT_API_URL to do without one"
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True, httpx_settings={"timeout": ANSWER}) as client,
    ):
        if error := client.api_healthcheck():
            reason = without_password(str(error)) or type(error).__name__
            words = f"{shown} does not answer: {reason}"
            return Finding("prefect runs", words, "broken", advice)
        try:
            theirs = client.api_version()
            client.raise_for_api_version_mismatch()
        except httpx.HTTPStatusError as refused:
            words = f"{shown} answers with {refused.response.status_code}"
            return Finding("prefect runs", words, "broken", "give the key: PREFECT_API_KEY")
        except RuntimeError as mismatch:
            words, mend = str(mismatch), "install the server's version of prefect"
            return Finding("prefect runs", words, "broken", mend)
    return Finding("prefect runs", f"reported to {shown}, Prefect {theirs}")
