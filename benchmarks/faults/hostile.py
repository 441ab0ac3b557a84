"""Workspaces and queries of somebody who means ill."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from benchmarks.faults.kills import run_audit
from flows.cli.bounds import held_to
from ttame_core import spec
from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import Limits, run_query

ANSWERS = (0, 2)  # exit codes of an audit that went through, and of one that said why not
LIMITS = Limits(memory="500MB", rows=1000, seconds=5)
GRACE = 15  # seconds beyond the limit in which a query must be over
MOST = 2 * 2**20  # KiB that a process with a query of 500 MB may hold

FOREIGN = (
    *("notes.txt", "train-999999.parquet", "test-000000.tar"),
    *(".x.parquet.writing-x", "x.parquet"),
)
BOMBS = (
    "SELECT count(*) FROM range(300000000) a, range(300000000) b",
    "SELECT * FROM range(300000000)",
    "SELECT list(range) FROM range(300000000)",
    "SELECT string_agg(range::VARCHAR, '') FROM range(300000000)",
    "SELECT a.range, b.range FROM range(100000) a, range(100000) b ORDER BY hash(a.range, b.range)",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
    "WITH RECURSIVE t(s) AS (SELECT 'a' UNION ALL SELECT s || s FROM t) SELECT max(len(s)) FROM t",
    "SELECT repeat('x', 4000000000)",
    "SELECT repeat(repeat('x', 100000), 100000)",
    "SELECT len(list_reduce(range(100000000), (a, b) -> a + b)::VARCHAR)",
    "SELECT regexp_matches(repeat('a', 1000000), '(a*)*(a*)*(a*)*b')",
    "SELECT range(1000000000)",
    "SELECT unnest(generate_series(1, 2000000000))",
    "SELECT " + "(" * 5000 + "1" + ")" * 5000,
    "SELECT " + " + ".join(["1"] * 100000),
    "SELECT DISTINCT hash(a.range, b.range) FROM range(1000000) a, range(1000000) b",
    "SELECT lpad('', 2000000000, 'x')",
    "PIVOT (FROM range(1000000)) ON range USING count(*)",
)


def ask_bombs(folder: Path, times: int) -> tuple[str, list[str]]:
    """Ask queries that want more time, memory or rows than there are.

    Args:
        folder: an empty folder.
        times: how often each is asked.

    Returns:
        What was done, and what took too much or left files behind.
    """
    problems, most, longest = [], 0, 0.0
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None
    try:
        run_query(Lake(folder / "lake"), "SELECT 1")  # makes the views, which all then share
        for sql in BOMBS * times:
            begun = time.monotonic()
            ended, held = _apart(lambda sql=sql: _ask(folder, sql), LIMITS.seconds + GRACE)
            most, longest = max(most, held), max(longest, time.monotonic() - begun)
            if ended not in ANSWERS or held > MOST:
                problems.append(f"{sql[:80]}: ended with {ended}, held {held // 1024} MiB")
            problems += [f"{sql[:80]}: left {p.name}" for p in folder.iterdir() if p.is_dir()]
    finally:
        del os.environ["TMPDIR"]
        tempfile.tempdir = None
    return (
        f"{len(BOMBS) * times} queries of {len(BOMBS)} kinds with {LIMITS.memory} and "
        f"{LIMITS.seconds:g} s: at most {most // 1024} MiB of the process and {longest:.0f} s"
    ), problems


def _ask(folder: Path, sql: str) -> None:
    try:
        with held_to(LIMITS):
            run_query(Lake(folder / "lake"), sql, LIMITS)
    except duckdb.Error as error:
        raise UserError(str(error)) from error


def _apart(work: Callable[[], None], seconds: float) -> tuple[int, int]:
    """Return how a process that does some work ends, 2 after a UserError, and KiB that it held."""
    pid = os.fork()
    if not pid:
        signal.alarm(int(seconds))
        status = 1
        try:
            work()
            status = 0
        except UserError:
            status = 2
        finally:
            os._exit(status)
    _, status, used = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), used.ru_maxrss


def open_hostile_workspaces(
    audit: spec.AuditSpec, folder: Path, workspaces: int, seed: int
) -> tuple[str, list[str]]:
    """Run an audit in workspaces with links to elsewhere and with files of others.

    Args:
        audit: the audit.
        folder: an empty folder.
        workspaces: number of workspaces.
        seed: what the links and files follow from.

    Returns:
        What was done, and the files of others that were changed or removed.
    """
    rng, problems = random.Random(seed), []
    undisturbed = folder / "undisturbed"
    run_audit(audit, undisturbed)
    ended = []
    for number in range(workspaces):
        here = folder / f"workspace-{number}"
        outside = folder / f"outside-{number}"
        shutil.copytree(undisturbed, here)
        outside.mkdir()
        foreign = [_make_hostile(here, outside, rng) for _ in range(rng.randint(1, 4))]
        before = _state(outside) | {str(p): _hash(p) for p in foreign if p.is_file()}
        maps = [p for p in sorted(here.glob("maps/*/*/*/*")) if not _behind_a_link(p, here)]
        ours = [path for path in maps if path not in foreign]
        for path in rng.sample(ours, min(2, len(ours))):
            path.unlink()  # something is to be made again
        code = run_audit(audit, here, checked=False)
        ended.append(code)
        after = _state(outside) | {str(p): _hash(p) for p in foreign if p.is_file()}
        if code not in ANSWERS:
            problems.append(f"workspace {number} of seed {seed}: the audit ended with {code}")
        changed = [path for path, content in before.items() if after.get(path) != content]
        problems += [f"{path} of seed {seed} was changed" for path in changed]
        problems += [f"{path} of seed {seed} was made" for path in after.keys() - before.keys()]
        shutil.rmtree(here)
    return (
        f"{workspaces} hostile workspaces: {ended.count(0)} audits went through, "
        f"{ended.count(2)} said why not"
    ), problems


def _make_hostile(workspace: Path, outside: Path, rng: random.Random) -> Path:
    """Put a link or a file of others into a workspace, and return the file that must stay."""
    inside = [p for p in sorted(workspace.rglob("*")) if not _behind_a_link(p, workspace)]
    place = outside / str(len(list(outside.iterdir())))
    if rng.random() < 0.4:  # a folder or a file becomes a link to what it was
        path = rng.choice(inside)
        shutil.move(path, place)
        path.symlink_to(place)
        return place
    folder = rng.choice([p for p in inside if p.is_dir()])
    path = folder / rng.choice(FOREIGN)
    if not path.exists():
        path.write_bytes(rng.choice((b"", b"PAR1", b"mine", rng.randbytes(100))))
    return path if path.read_bytes()[:4] in (b"", b"PAR1", b"mine") else outside


def _behind_a_link(path: Path, root: Path) -> bool:
    way = [p for p in (path, *path.parents) if p.is_relative_to(root) and p != root]
    return any(p.is_symlink() for p in way)


def _state(folder: Path) -> dict[str, str]:
    return {str(p): _hash(p) for p in folder.rglob("*") if p.is_file()}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
