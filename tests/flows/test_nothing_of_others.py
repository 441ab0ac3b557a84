"""Commands change nothing but what ttame has written, beside a workspace and within it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

from damages import flip

Run = Callable[..., CompletedProcess]


def _state(paths: list[Path]) -> dict[str, tuple[object, ...]]:
    """Return what each path is: its content or where it leads, its inode and its times."""
    state = {}
    for path in paths:
        about = path.lstat()
        holds: object = None
        if path.is_symlink():
            holds = os.readlink(path)
        elif path.is_file():
            holds = hashlib.sha256(path.read_bytes()).hexdigest()
        times = about.st_mtime_ns if not path.is_dir() else None
        state[str(path)] = holds, about.st_ino, about.st_mode, times
    return state


def test_nothing_of_others_is_changed_or_removed(
    ttame: Run, edit_spec: Callable[[Callable[[dict], None]], Path], tmp_path: Path
) -> None:
    def shorten(spec: dict) -> None:
        spec["explainers"] = ["center", "random"]
        spec["evaluation"] = {"metrics": ["confidence"]}

    spec, workspace, export = edit_spec(shorten), tmp_path / "workspace", tmp_path / "export"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("mine.txt", "test-000000.parquet", ".x.parquet.writing-x", "export.txt"):
        (elsewhere / name).write_text("mine")

    def run(*arguments: str | Path, code: int = 0) -> None:
        ended = ttame(*arguments, "--workspace", workspace)
        assert ended.returncode == code, ended.stdout + ended.stderr

    beside = list(tmp_path.rglob("*"))
    before = _state(beside)
    run("audit", spec)
    assert _state(beside) == before
    foreign = []
    for folder in [p for p in workspace.rglob("*") if p.is_dir()]:
        for name in ("notes.txt", ".x.parquet.writing-x", ".hidden"):
            (folder / name).write_text("mine")
        (folder / "link").symlink_to(elsewhere / "mine.txt")
        (folder / "folder").symlink_to(elsewhere)
        foreign += [folder / n for n in ("notes.txt", ".x.parquet.writing-x", ".hidden", "link")]
        foreign += [folder / "folder"]
    before = _state(beside + foreign)
    run("export-dataset", spec, export)
    flip(next(workspace.glob("maps/*/*/*/test-*.parquet")))
    run("verify", "--repair", code=1)
    run("audit", spec)
    run("query", "FROM leaderboard", "--output", tmp_path / "board.csv")
    assert _state(beside + foreign) == before
    new = {p.name for p in tmp_path.iterdir()} - {p.name for p in beside if p.parent == tmp_path}
    assert new == {"workspace", "export", "board.csv"}
