"""The contents of a workspace by stage, backbone and explainer, from names and sizes alone.

Folders are listed, and no file is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ttame_core.lake.store import WRITING, Lake, is_abandoned

STAGES = ("shard", "fit", "sweep", "train", "explain", "evaluate", "paste", "report")
# Folder of the lake, the partitions below it, and the stage that fills it.
PARTITIONED = (
    ("backbones", ("dataset", "backbone"), "fit"),
    ("heads", ("dataset", "backbone", "explainer"), "train"),
    ("sweeps", ("dataset", "backbone", "explainer"), "sweep"),
    ("maps", ("dataset", "backbone", "explainer"), "explain"),
    ("scores", ("metric", "dataset", "backbone", "explainer"), "evaluate"),
    ("pasted", ("dataset", "backbone"), "paste"),
)
OF_SHARDS = ("explain", "evaluate")  # stages with a file for each shard
Entries = dict[str, dict[str, Any]]


@dataclass
class StageFiles:
    """The files that one stage has made for a data set, a backbone and an explainer.

    Attributes:
        stage: shard, fit, sweep, train, explain, evaluate, paste or report.
        dataset: name of the data set; for the stage `report` that of the audit.
        backbone: name of the backbone; '' where the stage has none.
        explainer: name of the explainer; '' where the stage has none.
        done: number of shards, heads, trials or records that are whole.
        bytes: size of all files.
        writing: number of files that a live process is writing.
        left: number of half-written files of dead processes.
        begun: whether a training left a checkpoint.
        splits: the splits that the files belong to.
    """

    stage: str
    dataset: str
    backbone: str = ""
    explainer: str = ""
    done: int = 0
    bytes: int = 0
    writing: int = 0
    left: int = 0
    begun: bool = False
    splits: set[str] = field(default_factory=set)

    @property
    def names(self) -> tuple[str, str, str, str]:
        """Stage, data set, backbone and explainer."""
        return self.stage, self.dataset, self.backbone, self.explainer

    def add(self, files: Entries) -> None:
        """Add the sizes of files, and count those that are half written."""
        for name, about in files.items():
            self.bytes += about["size"] or 0
            if WRITING in name:
                if is_abandoned(name, float(about.get("mtime") or 0)):
                    self.left += 1
                else:
                    self.writing += 1


def stage_files(lake: Lake) -> list[StageFiles]:
    """List the contents of a workspace, in the order of the stages."""
    by_names: dict[tuple[str, ...], StageFiles] = {}
    for one in (*_datasets(lake), *_partitioned(lake), *_audits(lake)):
        if (known := by_names.setdefault(one.names, one)) is not one:
            _merge(known, one)
    return sorted(by_names.values(), key=lambda one: (STAGES.index(one.stage), *one.names[1:]))


def _datasets(lake: Lake) -> Iterator[StageFiles]:
    for dataset in _folders(lake, "datasets"):
        one = StageFiles("shard", dataset)
        one.add(_files(lake, f"datasets/{dataset}"))
        shards = _files(lake, f"datasets/{dataset}/shards")
        one.add(shards)
        one.done = len(_whole(shards))
        yield one


def _partitioned(lake: Lake) -> Iterator[StageFiles]:
    for top, partitions, stage in PARTITIONED:
        for folder, names in _partitions(lake, top, partitions):
            files = _files(lake, folder)
            family = names.pop("metric", "")
            # The family `cost` lies among the scores, but its files are written with the maps.
            one = StageFiles("explain" if family == "cost" else stage, **names)
            one.add(files)
            if stage in ("fit", "train"):
                one.done = int("history.parquet" in files)
                one.begun = "checkpoint.pt" in files
            elif family != "cost":
                whole = _whole(files)
                one.done = len(whole)
                one.splits = {name.rsplit("-", 1)[0] for name in whole if stage in OF_SHARDS}
            yield one


def _audits(lake: Lake) -> Iterator[StageFiles]:
    for audit in _folders(lake, "audits"):
        one = StageFiles("report", audit)
        for time in _folders(lake, f"audits/{audit}"):
            folder = f"audits/{audit}/{time}"
            files = _files(lake, folder)
            one.add(files)
            one.add(_files(lake, f"{folder}/pictures"))
            one.done += "leaderboard.parquet" in files
        yield one


def _merge(known: StageFiles, other: StageFiles) -> None:
    """Add the files of `other` to those of `known`, which is changed.

    The number of done shards is the larger of the two, because the two can be families of scores
    of the same maps.
    """
    known.done = max(known.done, other.done)
    known.bytes += other.bytes
    known.writing += other.writing
    known.left += other.left
    known.splits |= other.splits


def _partitions(
    lake: Lake, folder: str, partitions: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield folders `folder/name=value/…`, each with its values by their names."""
    if not partitions:
        yield folder, {}
        return
    for name in _folders(lake, folder):
        key, _, value = name.partition("=")
        if key == partitions[0]:
            for below, names in _partitions(lake, f"{folder}/{name}", partitions[1:]):
                yield below, {key: value, **names}


def _folders(lake: Lake, folder: str) -> list[str]:
    entries = lake.entries(folder).items()
    return sorted(name for name, about in entries if about["type"] == "directory")


def _files(lake: Lake, folder: str) -> Entries:
    entries = lake.entries(folder).items()
    return {name: about for name, about in entries if about["type"] == "file"}


def _whole(files: Entries) -> list[str]:
    """Return the names of Parquet files that are not half written, one for each complete unit."""
    return [name for name in files if name.endswith(".parquet") and WRITING not in name]
