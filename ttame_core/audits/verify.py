"""Whether all files of a workspace are what ttame wrote, and made from one another."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ttame_core import spec
from ttame_core.audits.specification import complete
from ttame_core.data.decoding import apart
from ttame_core.data.files import read
from ttame_core.data.images import BrokenImage, examine
from ttame_core.data.plan import planned_rows
from ttame_core.data.sources.containers import (
    is_same,
    lies_inside,
    parts_of,
    read_inside,
    stays,
)
from ttame_core.errors import UserError, nearest
from ttame_core.heads.files import is_whole_head
from ttame_core.lake import (
    Lake,
    classes_file,
    dataset_file,
    fingerprint,
    shard_rows,
    shard_tar,
)
from ttame_core.lake.query.boards import scores_state
from ttame_core.lake.query.connection import computed_leaderboard
from ttame_core.lake.records import (
    Previous,
    check_record,
    file_hashes,
    last_record,
    read_about,
    records,
)
from ttame_core.lake.schemas import HEAD, LEADERBOARD, REFUSED
from ttame_core.lake.selection import Selection
from ttame_core.lake.store import FINGERPRINT, HALF_WRITTEN, MADE_FROM, PATH, is_abandoned
from ttame_core.stages.provenance import Provenance
from ttame_core.stages.roles import missing_roles
from ttame_core.training.checkpoint import is_whole_checkpoint

# States of a file: not as it was written; not there though others need it; made from something that
# has changed since; not written by ttame.
DAMAGED, MISSING, STALE, FOREIGN = "damaged", "missing", "stale", "foreign"
SCHEMA = pa.schema([("path", pa.string()), ("state", pa.string()), ("reason", pa.string())])

IDENTITY = ("dataset", "backbone", "explainer", "metric")  # of a leaderboard's row

_OF = r"dataset=[^/]+/backbone=[^/]+"
_SHARD = r"(?:train|val|test)-\d+"
LAYOUT = re.compile(
    r"datasets/[^/]+/(?:plan|index|annotations|rejected|shards)\.parquet"
    rf"|datasets/[^/]+/shards/{_SHARD}\.(?:tar|parquet)"
    rf"|backbones/{_OF}/(?:weights\.safetensors|history\.parquet|checkpoint\.pt)"
    rf"|heads/{_OF}/explainer=[^/]+/(?:head\.safetensors|spec\.json|history\.parquet|checkpoint\.pt)"
    rf"|sweeps/{_OF}/explainer=[^/]+/\d+(?:\.parquet|/[^/]+)"
    rf"|maps/{_OF}/explainer=[^/]+/{_SHARD}\.parquet"
    rf"|explainers/{_OF}/explainer=[^/]+/role\.parquet"
    rf"|classes/{_OF}/classes\.parquet"
    rf"|scores/metric=[^/]+/{_OF}/explainer=[^/]+/{_SHARD}\.parquet"
    r"|audits/[^/]+/[^/]+/.+"
)

RECORD = re.compile(r"audits/[^/]+/[^/]+/.")


@dataclass(frozen=True)
class Fault:
    """A file that is not as it should be.

    Attributes:
        path: in the workspace.
        state: DAMAGED, MISSING, STALE or FOREIGN.
        reason: what is wrong with it.
    """

    path: str
    state: str
    reason: str

    @property
    def made_again(self) -> bool:
        """Whether the file can be removed, because the next audit makes it again."""
        return self.state in (DAMAGED, STALE) and not self.path.startswith("audits/")


def verify(lake: Lake, name: str | None = None, pixels: bool = False) -> list[Fault]:
    """Look at all files of a workspace.

    Args:
        lake: the workspace.
        name: the audit whose records are looked at; None for all.
        pixels: whether the original pictures of the data sets are read as well. Only that finds
            pictures that have changed and still have the same size and time.

    Returns:
        What is wrong; nothing where all is well. A file is named once, by the first fault.

    Raises:
        UserError: there is no audit of that name.
    """
    names = {folder.split("/")[1] for folder in records(lake)}
    if name is not None and name not in names:
        raise UserError(f"{lake} has no audit called {name}." + nearest(name, names))
    first: dict[str, Fault] = {}
    verification = _Verification(lake)
    for fault in verification.faults(sorted(names if name is None else {name})):
        first.setdefault(fault.path, fault)
    for fault in verification.pixels() if pixels else ():
        first.setdefault(fault.path, fault)
    return sorted(first.values(), key=lambda fault: fault.path)


def repair(lake: Lake, faults: list[Fault]) -> list[str]:
    """Remove the faulty files that the next audit makes again, and return their paths."""
    again = [fault.path for fault in faults if fault.made_again]
    for path in again:
        lake.remove(path)
    return again


def last_records(lake: Lake, name: str | None = None) -> list[Previous]:
    """Return the last record of each audit with the hash of its record.json; of one, by its name.

    That hash stands for the record's files and for all records before it.

    Raises:
        UserError: the record.json of one is not as it was written.
    """
    names = sorted({folder.split("/")[1] for folder in records(lake, name or "*")})
    return [last for last in (last_record(lake, name) for name in names) if last]


def faults_table(faults: list[Fault]) -> pa.Table:
    """Return faults as a table with the columns path, state and reason."""
    return pa.Table.from_pylist([vars(fault) for fault in faults], SCHEMA)


class _Verification:
    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        listed = list(_files(lake, ""))
        self.files = {path for path, kind in listed if kind == "file" and _is_known(path)}
        self.others = sorted((path, kind) for path, kind in listed if path not in self.files)
        parquet = sorted(path for path in self.files if path.endswith(".parquet"))
        self.about = dict(zip(parquet, lake.metadata_of(parquet), strict=True))

    def faults(self, audits: list[str]) -> Iterator[Fault]:
        """Yield what is wrong with the workspace; damaged files come before faults due to them."""
        yield from self._single_files()
        for dataset in sorted({p.split("/")[1] for p in self.files if p.startswith("datasets/")}):
            yield from self._dataset(dataset)
        yield from self._trained()
        yield from self._maps_and_scores()
        yield from self._unfinished()
        for audit in audits:
            yield from self._records(audit)

    def _single_files(self) -> Iterator[Fault]:
        for path, kind in self.others:
            name = path.rsplit("/", 1)[-1]
            if kind == "link":
                yield Fault(path, FOREIGN, "it is a link, and ttame makes none")
            elif kind == "other":
                yield Fault(path, FOREIGN, "it is a pipe or a device, and ttame makes none")
            elif not HALF_WRITTEN.fullmatch(name):
                yield Fault(path, FOREIGN, "ttame writes no such file")
            elif is_abandoned(name, time.time()):
                yield Fault(path, FOREIGN, "it was left half written; the next run removes it")
        for path in self.about:
            if FINGERPRINT.decode() not in self.about[path]:
                yield Fault(path, DAMAGED, "it does not say what it was made from")
            elif reason := self._damage(path):
                yield Fault(path, DAMAGED, reason)

    def _damage(self, path: str) -> str:
        try:
            if not self.lake.is_sealed(path):
                return "it carries no hash: it was written by an earlier version, or by others"
            self.lake.read_table(path, [] if self.lake.local else None)
        except UserError:
            return "it is not as it was written"
        written = self.about[path].get(PATH.decode(), path)  # earlier versions did not say it
        return "" if written == path else f"it was written as {written}"

    def _dataset(self, dataset: str) -> Iterator[Fault]:
        listed = dataset_file(dataset, "shards.parquet")
        try:
            rows = self.lake.read_table(listed, ["shard", "sha256"]).to_pylist()
        except (UserError, OSError):
            state = DAMAGED if listed in self.files else MISSING
            yield Fault(listed, state, "the list of shards cannot be read")
            rows = self._rows_beside(dataset)
        made_from = self._made_from(listed)
        prints = {}
        for row in rows:
            tar, sidecar = (place(dataset, row["shard"]) for place in (shard_tar, shard_rows))
            prints[row["shard"]] = self._fingerprint(sidecar), row["sha256"]
            for path in (tar, sidecar):
                if path not in self.files:
                    yield Fault(path, MISSING, "the list of shards names it")
            if sidecar in self.about and self.about[sidecar].get("sha256") != row["sha256"]:
                yield Fault(sidecar, STALE, "it belongs to another tar than the list of shards has")
            if tar in self.files and self.lake.sha256(tar) != row["sha256"]:
                yield Fault(tar, DAMAGED, "it is not the tar that the list of shards has")
        if made_from.get("shards") not in (None, fingerprint(prints)):
            yield Fault(listed, STALE, "the shards beside it have changed since it was written")
        known = {place(dataset, r["shard"]) for r in rows for place in (shard_tar, shard_rows)}
        for path in sorted(self.files):
            if path.startswith(f"datasets/{dataset}/shards/") and path not in known:
                yield Fault(path, STALE, "the list of shards does not name it")
        for name in ("index", "annotations", "rejected"):
            path = dataset_file(dataset, f"{name}.parquet")
            if path not in self.files:
                yield Fault(path, MISSING, "every data set has this file")
            elif self._fingerprint(listed) not in (None, self._fingerprint(path)):
                yield Fault(path, STALE, "it was gathered from other shards")
        plan = dataset_file(dataset, "plan.parquet")
        if plan not in self.files:
            yield Fault(plan, MISSING, "every data set has this file")
        elif made_from.get("plan") not in (None, self._fingerprint(plan)):
            yield Fault(plan, STALE, "the shards were written by another plan")

    def _rows_beside(self, dataset: str) -> list[dict[str, str]]:
        """Return name and hash of the shards that a data set has, by the rows beside them."""
        return [
            {"shard": path.rsplit("/", 1)[-1].removesuffix(".parquet"), "sha256": about["sha256"]}
            for path, about in self.about.items()
            if path.startswith(f"datasets/{dataset}/shards/") and "sha256" in about
        ]

    def _trained(self) -> Iterator[Fault]:
        for path in sorted(self.files):
            folder, _, name = path.rpartition("/")
            top = path.split("/")[0]
            history = f"{folder}/history.parquet"
            if name in ("weights.safetensors", "head.safetensors") and history not in self.files:
                yield Fault(history, MISSING, "it is the history of the training beside it")
            if (top, name) == ("backbones", "weights.safetensors"):
                expected = self.about.get(history, {}).get("weights")
                if f"sha256:{self.lake.sha256(path)}" != expected and expected:
                    yield Fault(path, DAMAGED, "these are not the weights that were trained here")
            elif (top, name) == ("heads", "head.safetensors"):
                if history in self.about and not is_whole_head(self.lake, folder):
                    yield Fault(path, DAMAGED, "it is not the head that was trained here")
            elif (top, name) == ("heads", "spec.json"):
                said = self._of_json(path)
                if said is None or said != self._fingerprint(history):
                    yield Fault(path, DAMAGED, "it is not what the head was made from")
            elif name == "checkpoint.pt" and not is_whole_checkpoint(self.lake, path):
                yield Fault(path, DAMAGED, "it is not as it was written")
            elif name == "history.parquet" and top != "sweeps":
                weights = {"backbones": "weights", "heads": "head"}[top]
                whole = f"{folder}/{weights}.safetensors"
                refused = REFUSED in self.about[path]
                if whole not in self.files and not refused:
                    yield Fault(whole, MISSING, "only the history of its training is left")

    def _maps_and_scores(self) -> Iterator[Fault]:
        for path in sorted(self.about):
            made_from = self._made_from(path)
            top, *folders, name = path.split("/")
            of = dict(folder.split("=", 1) for folder in folders if "=" in folder)
            if top == "maps":
                shard = name.removesuffix(".parquet")
                sidecar = self.about.get(shard_rows(of["dataset"], shard))
                if sidecar is None:
                    yield Fault(path, STALE, f"there is no shard {shard}")
                elif made_from.get("shard") not in (None, sidecar.get("sha256")):
                    yield Fault(path, STALE, "the shard's pictures have changed since it was made")
                history = "/".join(("heads", *folders, "history.parquet"))
                of_head = made_from.get("head"), self.about[path].get(HEAD)
                now = self._fingerprint(history), self.about.get(history, {}).get(HEAD)
                if any(mine not in (None, its) for mine, its in zip(of_head, now, strict=True)):
                    yield Fault(path, STALE, "its head has changed since it was made")
                backbone = f"backbones/{folders[0]}/{folders[1]}/history.parquet"
                weights = (made_from.get("backbone") or {}).get("weights")
                if backbone in self.about and weights != self.about[backbone].get("weights"):
                    yield Fault(path, STALE, "its classifier has changed since it was made")
            elif top == "scores":
                maps = "/".join(("maps", *folders[1:], name))
                own = made_from.get("maps")
                if of["metric"] == "cost":  # written with the maps, from the same
                    own = self._fingerprint(path)
                if maps not in self.about:
                    yield Fault(maps, MISSING, "there are scores of these maps")
                elif own not in (None, self._fingerprint(maps)):
                    yield Fault(path, STALE, "its maps have changed since it was made")

    def _unfinished(self) -> Iterator[Fault]:
        folders = {"/".join(path.split("/")[:3]) for path in self.files if RECORD.match(path)}
        for folder in sorted(folders.difference(records(self.lake))):
            words = "the record was not written to its end, or lost its leaderboard since"
            yield Fault(f"{folder}/leaderboard.parquet", MISSING, f"{words}: remove {folder}")

    def _records(self, audit: str) -> Iterator[Fault]:
        before: str | None = None
        sound = False
        for folder in records(self.lake, audit):
            path = f"{folder}/record.json"
            try:
                about = check_record(self.lake, folder)
            except UserError as error:
                place = re.search(rf"{re.escape(folder)}/\S+", str(error))
                yield Fault(place[0] if place else path, DAMAGED, str(error))
                before, sound = folder, False
                continue
            sound = True
            if not about.files:
                yield Fault(path, DAMAGED, "it has no hashes: an earlier version wrote it")
            for name in sorted(file_hashes(self.lake, folder).keys() - about.files.keys()):
                yield Fault(f"{folder}/{name}", FOREIGN, "record.json does not name it")
            named = about.previous and f"audits/{about.previous.record}"
            if about.previous and named == before:
                last = f"{before}/record.json"
                if last in self.files and self.lake.sha256(last) != about.previous.sha256:
                    yield Fault(last, DAMAGED, f"{folder} holds another hash of it")
            elif about.files and named != before:
                lost = named or before or folder
                yield Fault(
                    f"{lost}/record.json", MISSING, f"it should be the record before {folder}"
                )
            before = folder
        if before and sound:
            yield from self._last(before)

    def _last(self, folder: str) -> Iterator[Fault]:
        """Yield files that the last record's spec asks for and that are missing or outdated.

        Where there are none, the leaderboard is computed anew from the scores and compared.
        """
        try:
            text = self.lake.read_document(f"{folder}/spec.yaml").decode()
            audit = complete(spec.AuditSpec.model_validate(spec.parse_yaml(text)[1]))
            failed = read_about(self.lake, folder).failures
            whole = [b for b in audit.backbones if b.name not in failed]
            audit = audit.model_copy(update={"backbones": whole})
            roles = missing_roles(self.lake, audit, [b.name for b in audit.backbones])
            undone = [*roles, *Provenance(audit, self.lake, imports=False).unmade()]
            for backbone in whole:
                path = classes_file(audit.dataset.name, backbone.name)
                if path not in self.files:
                    yield Fault(path, MISSING, "there are maps without the names of their classes")
            if not undone and (fault := self._other_board(folder, audit)):
                yield fault
            for path in undone:
                other = "; what is there was made from something else" * (path in self.files)
                yield Fault(path, MISSING, f"the spec of {folder} asks for it{other}")
        except (UserError, ValueError, OSError, KeyError) as error:
            reason = f"it is not known which files it asks for: {error}"
            yield Fault(f"{folder}/spec.yaml", MISSING, reason)

    def _other_board(self, folder: str, audit: spec.AuditSpec) -> Fault | None:
        """Return the fault of a record's leaderboard that differs from the scores; else None."""
        path = f"{folder}/leaderboard.parquet"
        board = computed_leaderboard(self.lake, audit.dataset.name, Selection.of(audit))
        wrong = _difference(self.lake.read_table(path), board.cast(LEADERBOARD))
        if wrong is None:
            return None
        state = scores_state(self.lake, audit.dataset.name, Selection.of(audit))
        same = read_about(self.lake, folder).scores == state
        words = f"the scores give something else for {wrong}"
        return Fault(path, DAMAGED if same else STALE, words)

    def pixels(self) -> Iterator[Fault]:
        """Yield a fault for each shard some of whose original pictures have changed since."""
        for path in sorted(self.files):
            if path.endswith(".tar") and LAYOUT.fullmatch(path):
                _, dataset, _, name = path.split("/")
                shard = name.removesuffix(".tar")
                with suppress(UserError, OSError):  # those that are damaged have a fault already
                    others = _others(self.lake, dataset, shard)
                    if others:
                        words = f"{len(others)} of its pictures have changed since: {others[0]}"
                        yield Fault(path, STALE, words + " and others" * (len(others) > 1))

    def _fingerprint(self, path: str) -> str | None:
        return self.about.get(path, {}).get(FINGERPRINT.decode())

    def _made_from(self, path: str) -> Mapping[str, Any]:
        try:
            made_from = json.loads(self.about.get(path, {}).get(MADE_FROM.decode(), "{}"))
        except ValueError:
            return {}
        return made_from if isinstance(made_from, dict) else {}

    def _of_json(self, path: str) -> str | None:
        try:
            return fingerprint(json.loads(self.lake.read_document(path)))
        except (UserError, ValueError, RecursionError):
            return None


def _is_known(path: str) -> bool:
    """Say whether ttame writes files of this path, which are whole where they have this name."""
    half_written = HALF_WRITTEN.fullmatch(path.rsplit("/", 1)[-1])
    return bool(LAYOUT.fullmatch(path)) and not half_written


def _files(lake: Lake, folder: str) -> Iterator[tuple[str, str]]:
    """Yield the path of each file, and its kind: file, link, or other (a pipe, a device).

    Folders behind links are not looked into.
    """
    for name, about in lake.entries(folder).items():
        path = f"{folder}/{name}" if folder else name
        if lake.link_to(path):
            yield path, "link"
        elif about["type"] == "directory":
            yield from _files(lake, path)
        else:
            yield path, about["type"]


def _difference(recorded: pa.Table, computed: pa.Table) -> str | None:
    """Return where two leaderboards first differ, such as `value of net ttame AD@15`.

    None stands for two leaderboards that are alike.
    """
    boards = []
    for board in (recorded, computed):
        rows = board.to_pylist()
        boards.append({tuple(row[name] for name in IDENTITY): row for row in rows})
    for key in sorted(boards[0].keys() | boards[1].keys()):
        one, other = (board.get(key, {}) for board in boards)
        for name in LEADERBOARD.names:
            given, expected = one.get(name), other.get(name)
            if not _alike(given, expected):
                return f"{name} of {' '.join(key[1:])}"
    return None


def _alike(given: Any, expected: Any) -> bool:
    if isinstance(given, float) and isinstance(expected, float) and not math.isnan(given):
        return math.isclose(given, expected, rel_tol=1e-6, abs_tol=1e-12)
    return bool(given == expected or (given != given and expected != expected))


def _others(lake: Lake, dataset: str, shard: str) -> list[str]:
    """Return the paths of a shard's pictures whose original files have changed since."""
    rows = {row["path"]: row for row in lake.read_table(shard_rows(dataset, shard)).to_pylist()}
    planned = [row for row in planned_rows(lake, dataset, shard) if row["location"]]
    with ThreadPoolExecutor() as pool:
        same = pool.map(
            lambda row: _is_same(row["location"], row["stamp"], rows.get(row["path"])), planned
        )
        return [row["path"] for row, equal in zip(planned, same, strict=True) if not equal]


def _is_same(location: str, stamp: str, row: Mapping[str, Any] | None) -> bool:
    """Say whether a file still holds the picture of a shard's row; True for rejected pictures.

    Pictures that were copied from a file of many have changed where that file has.
    """
    if row is None or not row["sha256"]:
        return True
    if lies_inside(location) and not stays(location):
        return is_same(parts_of(location)[0], stamp)
    try:
        data = read_inside(location) if stays(location) else read(location)
        if hashlib.sha256(data).hexdigest() == row["sha256"]:
            return True
        made = apart(examine, data, row["path"], max(row["width"], row["height"])).smaller
    except (OSError, BrokenImage):
        return False
    return made is not None and hashlib.sha256(made).hexdigest() == row["sha256"]
