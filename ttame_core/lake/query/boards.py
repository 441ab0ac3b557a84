"""Leaderboards in audits' records that are still valid, so that no scores need to be read.

A leaderboard is computed from all scores, which takes as long as reading them. A record holds its
leaderboard and a hash of the names, sizes and times of the files it was computed from. Where the
hash is still the same, the record's leaderboard is used; otherwise it is computed again.
"""

from __future__ import annotations

import glob
from contextlib import suppress
from functools import cache, partial
from typing import Any

import duckdb
import pyarrow as pa

from ttame_core.errors import UserError
from ttame_core.lake.query.read_only import ReadOnly, Worth
from ttame_core.lake.query.views import views
from ttame_core.lake.records import read_about, read_board
from ttame_core.lake.selection import Selection
from ttame_core.lake.store import Lake, explainer_file, fingerprint, maps_file, scores_file

RECORDED = "audits/*/*/leaderboard.parquet"


def scores_state(lake: Lake, dataset: str, selection: Selection | None = None) -> str:
    """Return a hash that changes with every score of a data set.

    Take the hash before the scores are read, so that a score that changes meanwhile is noticed.

    Args:
        lake: the workspace.
        dataset: name of the data set.
        selection: the maps and scores that should be in the lake; None for any.

    Returns:
        The hash; "" where there are no files, or maps or scores that are not in `selection`.
    """
    return _state(ReadOnly(lake), dataset, selection)


def recorded_boards(
    lake: Lake, read_only: ReadOnly, selection: Selection | None, worth: Worth
) -> dict[str, pa.Table]:
    """Return the leaderboards of records that are still valid.

    Args:
        lake: the workspace.
        read_only: the files of the workspace.
        selection: the maps and scores that a leaderboard should cover; None for all in the lake.
        worth: chooses from folders of data sets those whose leaderboards are needed.

    Returns:
        Valid leaderboards, by the name of the data set.
    """
    last = {path.split("/")[1]: path for path in read_only.glob(RECORDED)}
    state = cache(partial(_state, read_only, selection=selection))
    boards = {}
    for path in last.values():
        folder = path.rpartition("/")[0]
        # Where a record is damaged, the leaderboard is computed from the scores.
        try:
            about = read_about(lake, folder)
        except UserError:
            continue
        dataset = about.dataset or ""
        if not (about.board and about.scores and worth([f"dataset={dataset}"])):
            continue
        if about.scores == state(dataset):
            with suppress(UserError):
                boards[dataset] = read_board(lake, folder)
    return boards


def _state(read_only: ReadOnly, dataset: str, selection: Selection | None) -> str:
    """Hash the files that the leaderboard of a data set is computed from (`scores_state`)."""
    files: list[Any] = []
    of = glob.escape(dataset)
    for pattern in (
        maps_file(of, "*", "*", "*"),
        scores_file("*", of, "*", "*", "*"),
        explainer_file(of, "*", "*"),
    ):
        for path in read_only.glob(pattern):
            if selection and not selection.includes(path):
                return ""
            about = read_only.info(path)
            when = about.get("ETag") or about.get("mtime") or about.get("created")
            files.append((path, about["size"], when))
    computed = [duckdb.__version__, *views().definitions]
    return fingerprint([computed, files]) if files else ""
