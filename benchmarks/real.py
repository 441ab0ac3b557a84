"""T-TAME beside its rivals, on published ImageNet classifiers and photographs that the user has.

`python -m benchmarks --only real --pictures TEN MANY` takes two folders. TEN has class folders of
ten ImageNet classes (WordNet identifiers) under `images/train` and `images/test`, and COCO boxes of
the latter in `test.json`. MANY has class folders of many classes under `images`. Four audits of
both classifiers of examples/efficientnet_lite.py (dependency group `weights`) share a workspace,
and can be killed and run again:

- ten: trained on TEN's training pictures, tested on its test pictures;
- many: MANY's pictures divided 70 : 30 at random, whatever their classes;
- unseen: MANY's classes divided 70 : 30, so that no test picture's class has a training picture;
- carried: heads that were trained on TEN explain the test pictures of `many`.
"""

from __future__ import annotations

import csv
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.table import Table

from ttame_core.audits.statistics import bootstrap_weights, paired
from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import connect
from ttame_core.lake.query.directions import direction
from ttame_core.spec import TRUSTED

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
BACKBONES = ("lite0", "lite1")
CONFIDENCE = [f"{metric}@{keep}" for metric in ("AD", "IC") for keep in (100, 50, 15)]
OTHERS = ["insertion", "deletion", "ROAD", "energy_in_box", "max_box_acc_v2"]
TRAIN_SHARE = 0.7
STEPS = {"batch_size": 16, "min_steps": 300}
CURVE_STEPS, REMOVED = 16, [10, 30, 50, 70, 90]  # half of the defaults
Row = tuple[str, str, str]  # path, label, split
Pairs = dict[str, tuple[int, list[float]]]  # by key: group for the bootstrap, values of the seeds


def compare(
    pictures: Sequence[Path], workspace: Path, seeds: int, backbones: Sequence[str], images: int
) -> Iterable[Table]:
    """Run the audits, and return a table of values and one of differences for each.

    Args:
        pictures: the folders TEN and MANY.
        workspace: where the audits' files lie; what is there is not made again.
        seeds: number of trainings of T-TAME's head.
        backbones: some of BACKBONES.
        images: number of images on which insertion, deletion and ROAD are measured; explainers of
            hundreds of passes explain half as many.

    Raises:
        UserError: an audit failed.
    """
    ten, many = pictures
    workspace.mkdir(parents=True, exist_ok=True)
    sets = {"ten": _ten(ten), "many": _divided(many), "unseen": _apart(many)}
    for name, rows in sets.items():
        _write_manifest(workspace / f"{name}.csv", rows)
        boxes = {"test": str(ten / "test.json")} if name == "ten" else None
        section = _dataset(workspace, name, boxes)
        chosen = _explainers(seeds, max(1, images // 2), name != "unseen")
        spec = _spec(f"real-{name}", section, [_backbone(b, name) for b in backbones], chosen)
        _audit(spec, workspace, images)
        yield from _tables(workspace, name, seeds)
    carried = [_backbone(b, "many") | {"name": n, "head": h} for b, n, h in _heads(workspace)]
    section = _dataset(workspace, "many", None)
    _audit(_spec("real-carried", section, carried, ["ttame"]), workspace, images)
    yield _carried(workspace)


def _ten(folder: Path) -> Iterable[Row]:
    for split in ("train", "test"):
        for path in _files(folder / "images" / split):
            yield str(path), path.parent.name, split


def _divided(folder: Path) -> Iterable[Row]:
    """Yield the pictures, divided at random into training and test pictures."""
    chance = random.Random(0)
    paths = _files(folder / "images")
    chance.shuffle(paths)
    train = round(TRAIN_SHARE * len(paths))
    for number, path in enumerate(paths):
        yield str(path), path.parent.name, "train" if number < train else "test"


def _apart(folder: Path) -> Iterable[Row]:
    """Yield the pictures, of which whole classes are for training and whole classes for tests."""
    paths = _files(folder / "images")
    classes = sorted({path.parent.name for path in paths})
    random.Random(0).shuffle(classes)
    train = set(classes[: round(TRAIN_SHARE * len(classes))])
    for path in paths:
        yield str(path), path.parent.name, "train" if path.parent.name in train else "test"


def _files(folder: Path) -> list[Path]:
    paths = sorted(path.resolve() for path in folder.glob("*/*") if path.is_file())
    if not paths:
        raise UserError(
            f"{folder} has no class folders of pictures (benchmarks/real.py says which)"
        )
    return paths


def _write_manifest(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "label", "split"))
        writer.writerows(rows)


def _dataset(workspace: Path, name: str, boxes: dict[str, str] | None) -> dict[str, Any]:
    source = {"kind": "manifest", "path": str(workspace / f"{name}.csv")}
    annotations = {"annotations": {"kind": "coco", "path": boxes}} if boxes else {}
    return {"name": name, "source": source, **annotations}


def _backbone(name: str, dataset: str) -> dict[str, Any]:
    # TEN's pictures are square already, and nothing of them is cut off.
    view = {"preprocessing": {"crop_pct": 1.0}} if dataset == "ten" else {}
    model = f"efficientnet_lite:{name}"
    return {"model": model, "name": name, "class_names": "imagenet-1k", **view}


def _explainers(seeds: int, few: int, rivals: bool) -> list[Any]:
    ours: list[Any] = [
        {"ttame": {"name": f"ttame-{seed}", "training": {"seed": seed}}} for seed in range(seeds)
    ]
    start = {"ttame": {"name": "start", "training": {"min_steps": 0}}}
    published = {"recipe": "paper", "optimizer": "adamw", "learning_rate": 0.005, "epochs": 1}
    trained = [
        {"ttame": {"name": "faithful", "training": published | STEPS}},
        {"lcam_img": {"training": published | STEPS}},
    ]
    slow: list[Any] = [
        {"scorecam": {"images": few}},
        {"rise": {"images": few, "masks": 1000}},
        {"iia": {"images": few}},
    ]
    plain = ["random", "center", "gradcam", "gradcam++"]
    return [*plain, *ours, start, *([*trained, "lrp", *slow] if rivals else [])]


def _spec(
    name: str, dataset: dict[str, Any], backbones: list[dict[str, Any]], explainers: list[Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "dataset": dataset,
        "backbones": backbones,
        "explainers": explainers,
        "training": STEPS,
    }


def _audit(spec: dict[str, Any], workspace: Path, images: int) -> None:
    metrics: list[Any] = ["confidence"]
    metrics.append({"curves": {"images": images, "steps": CURVE_STEPS}})
    metrics.append({"road": {"images": images, "removed": REMOVED}})
    if "annotations" in spec["dataset"]:
        metrics.append("localization")
    path = workspace / f"{spec['name']}.yaml"
    path.write_text(yaml.safe_dump(spec | {"evaluation": {"metrics": metrics}}))
    command = [str(Path(sys.executable).with_name("ttame")), "audit", str(path)]
    paths = [str(EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [*command, "--workspace", str(workspace / "lake")],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(paths), TRUSTED: "efficientnet_lite"}
        | {"PREFECT_LOGGING_LEVEL": "INFO"},
        check=False,
    )
    if done.returncode:
        raise UserError(f"the audit of {path} failed; what is done stays for the next run")


def _heads(workspace: Path) -> Iterable[tuple[str, str, str]]:
    """Yield, of each head that was trained on TEN, its classifier, a name for both, and the file.

    The name ends with the seed.
    """
    lake = Lake(str(workspace / "lake"))
    for path in lake.glob("heads/dataset=ten/backbone=*/explainer=ttame-*/head.safetensors"):
        backbone, seed = re.findall(r"backbone=(\w+)/explainer=ttame-(\d+)", path)[0]
        yield backbone, f"{backbone}-ten-{seed}", lake.path(path)


def _tables(workspace: Path, dataset: str, seeds: int) -> Iterable[Table]:
    with connect(Lake(str(workspace / "lake"))) as db:
        board = db.execute(
            "SELECT backbone, explainer, metric, value, images FROM leaderboard "
            "WHERE dataset = ? AND explainer <> '-'",
            [dataset],
        ).fetchall()
        values = db.execute(
            "SELECT backbone, explainer, metric, key, hash(key) % 256, value FROM metric_values "
            "WHERE dataset = ? AND explainer <> '-' ORDER BY key",
            [dataset],
        ).fetchall()
        weights = bootstrap_weights(db)
    for backbone in sorted({row[0] for row in board}):
        of_backbone = [row[1:] for row in board if row[0] == backbone]
        yield _values(f"{dataset}, {backbone}", of_backbone, seeds)
        own = [row[1:] for row in values if row[0] == backbone]
        yield _differences(f"{dataset}, {backbone}: ttame − rival", own, weights)


def _values(title: str, board: list[tuple[str, str, float, int]], seeds: int) -> Table:
    """Make the table of means; that of `ttame` is of its seeds."""
    table = Table(title=title)
    table.add_column("explainer")
    metrics = [m for m in CONFIDENCE + OTHERS if any(row[1] == m for row in board)]
    for metric in ("images", *metrics):
        table.add_column(metric, justify="right")
    by_explainer: dict[str, dict[str, list[float]]] = {}
    images: dict[str, int] = {}
    for explainer, metric, value, count in board:
        name = _line(explainer)
        by_explainer.setdefault(name, {}).setdefault(metric, []).append(value)
        if metric == "AD@50":
            images[name] = count
    order = sorted(by_explainer, key=lambda name: np.mean(by_explainer[name].get("AD@50", [1e9])))
    for name in order:
        cells = (by_explainer[name].get(metric, []) for metric in metrics)
        label = f"ttame, {seeds} seeds" if name == "ttame" else name
        shown = (f"{np.mean(cell):.1f}" if cell else "" for cell in cells)
        table.add_row(label, str(images.get(name, "")), *shown)
    return table


def _line(explainer: str) -> str:
    """Return the line of a table in which an explainer stands: all seeds of ttame in one."""
    return "ttame" if explainer.startswith("ttame-") else explainer


def _differences(
    title: str, values: list[tuple[str, str, str, int, float]], weights: np.ndarray
) -> Table:
    """Make the table of ttame's lead in points, each with a 95 % interval over the images.

    A lead is positive where ttame is better. Values of its seeds are averaged for each image.
    """
    by_line: dict[tuple[str, str], Pairs] = {}
    for explainer, metric, key, bucket, value in values:
        images = by_line.setdefault((_line(explainer), metric), {})
        images.setdefault(key, (bucket, []))[1].append(value)
    metrics = [m for m in CONFIDENCE + OTHERS if ("ttame", m) in by_line]
    table = Table(title=title)
    for column in ("rival", *metrics):
        table.add_column(column, justify="left" if column == "rival" else "right")
    for rival in sorted({name for name, _ in by_line} - {"ttame", "random", "center"}):
        cells = (
            _lead(metric, by_line["ttame", metric], by_line.get((rival, metric), {}), weights)
            for metric in metrics
        )
        table.add_row(rival, *cells)
    return table


def _lead(metric: str, ours: Pairs, theirs: Pairs, weights: np.ndarray) -> str:
    keys = sorted(ours.keys() & theirs.keys())
    if not keys:
        return ""
    sign = -1 if direction(metric).lower_is_better else 1
    leads = np.array([sign * (np.mean(ours[k][1]) - np.mean(theirs[k][1])) for k in keys])
    found = paired(leads, np.array([ours[k][0] for k in keys]), weights)
    return "{difference:+.1f} ({ci_low:+.1f}, {ci_high:+.1f})".format(**found)


def _carried(workspace: Path) -> Table:
    table = Table(title="AD@50 on the test pictures of many, mean of the seeds")
    for column in ("backbone", "head trained on many", "head trained on ten"):
        table.add_column(column, justify="left" if column == "backbone" else "right")
    with connect(Lake(str(workspace / "lake"))) as db:
        rows = db.execute(
            "SELECT split_part(backbone, '-', 1), avg(value) FILTER (backbone NOT GLOB '*-ten-*'), "
            "avg(value) FILTER (backbone GLOB '*-ten-*') FROM leaderboard "
            "WHERE dataset = 'many' AND metric = 'AD@50' AND explainer GLOB 'ttame*' "
            "GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    for backbone, own, carried in rows:
        table.add_row(backbone, *("" if v is None else f"{v:.1f}" for v in (own, carried)))
    return table
