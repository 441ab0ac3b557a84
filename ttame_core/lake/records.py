"""Records of audits: what each says of itself, checked against the files beside it.

A record.json holds the hash of every file of its record, a hash of the leaderboard's rows, the hash
of the record before it, and one of all this. So a record that was damaged or edited is told from
one that stands as it was written; who rewrites a record and all hashes after it is told by a copy
of any later record that lies elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from ttame_core.errors import UserError
from ttame_core.lake.schemas import LEADERBOARD
from ttame_core.lake.store import Lake, fingerprint

SEAL = "seal"  # of record.json: the hash of all else that it says


class Previous(BaseModel):
    """The record of the same audit that came before.

    Attributes:
        record: its name and time, name/timestamp.
        sha256: of its record.json.
    """

    record: str
    sha256: str


class About(BaseModel):
    """What a record.json says. Earlier versions say less.

    Attributes:
        dataset: name of the data set; None where the record does not say.
        backbones: their names; None where the record does not say.
        explainers: their names.
        failures: the reason by backbone that failed.
        run: the run that left it.
        scores: from which scores the leaderboard is (`scores_state`).
        board: fingerprint of the leaderboard's rows.
        files: SHA-256 by name of the other files of the record.
        previous: the record before it.
        versions: the version by package.
    """

    model_config = ConfigDict(extra="allow")

    dataset: str | None = None
    backbones: list[str] | None = None
    explainers: list[str] = []
    failures: dict[str, str] = {}
    run: str = ""
    scores: str = ""
    board: str = ""
    files: dict[str, str] = {}
    previous: Previous | None = None
    versions: dict[str, str] = {}


def records(lake: Lake, name: str = "*") -> list[str]:
    """Return the folders of whole records, sorted by name and time: the leaderboard comes last."""
    paths = lake.glob(f"audits/{name}/*/leaderboard.parquet")
    return [path.rsplit("/", 1)[0] for path in paths]


def sealed(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record.json is to say, with its seal."""
    plain = json.loads(json.dumps(said, default=str))
    return {**plain, SEAL: fingerprint(plain)}


def board_fingerprint(board: pa.Table) -> str:
    """Return a hash of a leaderboard's rows."""
    return fingerprint(board.cast(LEADERBOARD).to_pylist())


def file_hashes(lake: Lake, folder: str) -> dict[str, str]:
    """Return the SHA-256 of the files of a record but those that hold or seal the hashes."""
    names = [
        path.removeprefix(f"{folder}/")
        for pattern in ("*.*", "pictures/*.*")
        for path in lake.glob(f"{folder}/{pattern}")
    ]
    others = [n for n in names if n not in ("record.json", "leaderboard.parquet") and n[0] != "."]
    return {name: lake.sha256(f"{folder}/{name}") for name in others}


def last_record(lake: Lake, name: str) -> Previous | None:
    """Return the last whole record of an audit; None where there is none.

    Raises:
        UserError: its record.json is not as it was written.
    """
    folder = next(reversed(records(lake, name)), None)
    if folder is None:
        return None
    read_about(lake, folder)
    return Previous(
        record=folder.removeprefix("audits/"), sha256=lake.sha256(f"{folder}/record.json")
    )


def read_about(lake: Lake, folder: str) -> About:
    """Read what a record says of itself.

    Raises:
        UserError: record.json is missing, is no record's, or is not as it was written.
    """
    path = f"{folder}/record.json"
    try:
        said = json.loads(lake.read_bytes(path))
        about = About.model_validate(said)
    except FileNotFoundError as error:
        raise _damaged(lake, path, "it is missing") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise _damaged(lake, path, f"{where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(lake, path, f"it is no JSON: {error}") from error
    if SEAL in said and sealed({k: v for k, v in said.items() if k != SEAL}) != said:
        raise _damaged(lake, path, "it was changed after it was written")
    return about


def read_board(lake: Lake, folder: str) -> pa.Table:
    """Read the leaderboard of a record.

    Raises:
        UserError: it, or what the record says of itself, is not as it was written.
    """
    about, path = read_about(lake, folder), f"{folder}/leaderboard.parquet"
    board = lake.read_table(path)
    if about.board and board_fingerprint(board) != about.board:
        raise _damaged(lake, path, "it was changed after it was written")
    return board


def check_record(lake: Lake, folder: str) -> About:
    """Check that all files of a record are as they were written, and return what it says.

    Raises:
        UserError: one is missing or another; the sentence names it.
    """
    about = read_about(lake, folder)
    read_board(lake, folder)
    for name, expected in about.files.items():
        path = f"{folder}/{name}"
        if not lake.exists(path):
            raise _damaged(lake, path, "it is missing")
        if lake.sha256(path) != expected:
            raise _damaged(lake, path, "it was changed after it was written")
    return about


def _damaged(lake: Lake, path: str, reason: str) -> UserError:
    folder = path.split("/")[1:3]
    return UserError(
        f"{lake.path(path)} is not as the audit wrote it ({reason}): put it back from a copy, or "
        f"remove the record {'/'.join(folder)}"
    )
