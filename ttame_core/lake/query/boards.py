"""Leaderboards that records keep and that still hold, because no score has changed since.

A leaderboard is worked out from all scores; that takes as long as reading them. A record says from
which files its leaderboard is, by a hash of their names, sizes and times. Where they are still the
same, the record's is taken, and nothing is read again; else it is worked out as if there were none.
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
from ttame_core.lake.store import Lake, fingerprint

# What leaderboards are made from.
SCORED = ("maps/*/*/*/*.parquet", "scores/*/*/*/*/*.parquet", "explainers/*/*/*/*.parquet")
RECORDED = "audits/*/*/leaderboard.parquet"


def scores_state(lake: Lake, dataset: str, selection: Selection | None = None) -> str:
    """A hash that changes with every score of a data set. Taken before they are read.

    selection: no hash, "", where there are others than those.
    """
    return _states(ReadOnly(lake), selection).get(dataset, "")


def recorded_boards(
    lake: Lake, read_only: ReadOnly, selection: Selection | None
) -> dict[str, pa.Table]:
    """By data set, the leaderboard of a record that holds all of it and still holds.

    selection: all that is to be in it.
    """
    last = {path.split("/")[1]: path for path in read_only.glob(RECORDED)}
    if not last:
        return {}
    states, boards = _states(read_only, selection), {}
    for path in last.values():
        # What is damaged here is no concern of who asks: it is worked out instead.
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
        read_only: the lake.
        selection: which maps and scores count; a data set that has others is left out.
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
