"""Leaderboards in audits' records that are still valid, so that no scores need to be read.

A leaderboard is computed from all scores, which takes as long as reading them. A record holds its
leaderboard and a hash of the names, sizes and times of the files it was computed from. Where the
hash is still the same, the record's leaderboard is used; otherwise it is computed again.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from typing import Any

import duckdb
import pyarrow as pa

from ttame_core.errors import UserError
from ttame_core.lake.query.read_only import ReadOnly
from ttame_core.lake.query.views import views
from ttame_core.lake.records import read_about, read_board
from ttame_core.lake.selection import Selection
from ttame_core.lake.store import Lake, explainer_file, fingerprint, maps_file, scores_file

# The files that leaderboards are computed from.
SCORED = (
    maps_file("*", "*", "*", "*"),
    scores_file("*", "*", "*", "*", "*"),
    explainer_file("*", "*", "*"),
)
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
    return _states(ReadOnly(lake), selection).get(dataset, "")


def recorded_boards(
    lake: Lake, read_only: ReadOnly, selection: Selection | None
) -> dict[str, pa.Table]:
    """Return the leaderboards of records that are still valid.

    Args:
        lake: the workspace.
        read_only: the files of the workspace.
        selection: the maps and scores that a leaderboard should cover; None for all in the lake.

    Returns:
        Valid leaderboards, by the name of the data set.
    """
    last = {path.split("/")[1]: path for path in read_only.glob(RECORDED)}
    if not last:
        return {}
    states, boards = _states(read_only, selection), {}
    for path in last.values():
        # Where a record is damaged, the leaderboard is computed from the scores.
        with suppress(UserError):
            folder = path.rsplit("/", 1)[0]
            about = read_about(lake, folder)
            dataset = about.dataset or ""
            if about.board and about.scores == states.get(dataset, "none"):
                boards[dataset] = read_board(lake, folder)
    return boards


def _states(read_only: ReadOnly, selection: Selection | None) -> dict[str, str]:
    """Hash the files of each data set.

    Args:
        read_only: the files of the workspace.
        selection: the maps and scores that should be there; a data set with others is left out.
    """
    files: dict[str, list[Any]] = defaultdict(list)
    others: set[str] = set()
    for pattern in SCORED:
        for path in read_only.glob(pattern):
            dataset = path.split("dataset=")[1].split("/")[0]
            if selection and not selection.includes(path):
                others.add(dataset)
                continue
            about = read_only.info(path)
            when = about.get("ETag") or about.get("mtime") or about.get("created")
            files[dataset].append((path, about["size"], when))
    computed = [duckdb.__version__, *views().definitions]
    return {
        dataset: fingerprint([computed, listed])
        for dataset, listed in files.items()
        if dataset not in others
    }
