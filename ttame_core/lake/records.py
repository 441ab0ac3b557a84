"""Records of audits: reading of record.json, and checking it against the files beside it.

A record.json holds the hash of every file of its record, a hash of the leaderboard's rows, the hash
of the record before it, and a hash of all this. So a record that was damaged or edited can be told
from one that is as it was written. Somebody who rewrites a record with all hashes after it is found
out by a copy, kept elsewhere, of any later record.
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

SEAL = "seal"  # key of record.json: the hash of all its other content


class Previous(BaseModel):
    """The record of the same audit that came before.

    Attributes:
        record: the record, name/timestamp.
        sha256: hash of its record.json.
    """

    record: str
    sha256: str


class About(BaseModel):
    """The content of a record.json; earlier versions have fewer keys.

    Attributes:
        dataset: name of the data set; None where the record does not say.
        backbones: names of the backbones; None where the record does not say.
        explainers: names of the explainers.
        failures: the error of each backbone that failed, by its name.
        run: identity of the run that left the record.
        scores: hash of the scores that the leaderboard was computed from (`scores_state`).
        board: fingerprint of the leaderboard's rows.
        files: SHA-256 of the record's other files, by name.
        previous: the record before this one.
        versions: versions of packages, by name.
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
    """Return the folders of whole records, which have a leaderboard, sorted by name and time."""
    paths = lake.glob(f"audits/{name}/*/leaderboard.parquet")
    return [path.rsplit("/", 1)[0] for path in paths]


def sealed(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a record.json with a seal added, a hash of the content."""
    plain = json.loads(json.dumps(said, default=str))
    return {**plain, SEAL: fingerprint(plain)}


def board_fingerprint(board: pa.Table) -> str:
    """Return a hash of a leaderboard's rows."""
    return fingerprint(board.cast(LEADERBOARD).to_pylist())


def file_hashes(lake: Lake, folder: str) -> dict[str, str]:
    """Return the SHA-256 of a record's files, without record.json and the leaderboard, by name."""
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
        UserError: the record's record.json is not as it was written.
    """
    folder = next(reversed(records(lake, name)), None)
    if folder is None:
        return None
    read_about(lake, folder)
    return Previous(
        record=folder.removeprefix("audits/"), sha256=lake.sha256(f"{folder}/record.json")
    )


def read_about(lake: Lake, folder: str) -> About:
    """Read the record.json of a record.

    Raises:
        UserError: record.json is missing, has wrong content, or is not as it was written.
    """
    path = f"{folder}/record.json"
    try:
        said = json.loads(lake.read_document(path))
        about = About.model_validate(said)
    except FileNotFoundError as error:
        raise _damaged(lake, path, "it is missing") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise _damaged(lake, path, f"{where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(lake, path, f"it is no JSON: {error}") from error
    # Records of earlier versions have neither hashes of their files nor a seal.
    if (about.files or SEAL in said) and sealed({k: said[k] for k in said if k != SEAL}) != said:
        raise _damaged(lake, path, "it was changed after it was written")
    return about


def read_board(lake: Lake, folder: str) -> pa.Table:
    """Read the leaderboard of a record.

    Raises:
        UserError: the leaderboard or record.json is not as it was written.
    """
    about, path = read_about(lake, folder), f"{folder}/leaderboard.parquet"
    board = lake.read_table(path)
    try:
        same = not about.board or board_fingerprint(board) == about.board
    except MemoryError as error:
        raise _damaged(lake, path, "it takes more memory than there is") from error
    except (pa.ArrowException, ValueError):  # it has other columns
        same = False
    if not same:
        raise _damaged(lake, path, "it was changed after it was written")
    return board


def check_record(lake: Lake, folder: str) -> About:
    """Check that all files of a record are as they were written, and return its record.json.

    Raises:
        UserError: a file is missing or was changed; the message names it.
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
