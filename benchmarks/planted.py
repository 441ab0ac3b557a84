"""Audits of classifiers with planted faults, beside those of their clean twins.

`python -m benchmarks.planted` plants each fault of harness/planting.py, trains the classifier and
its twin, audits both on the same test pictures, and asks the audit what its reader would: is the
faulty one told from the twin, are the pictures with the fault on top, is the class named, does the
twin raise no alarm? What is there already is not made again: kill it and run it again.

With `--photographs FOLDER` they are planted in photographs, of which FOLDER has class folders, or
its `images/train` has. Each seed takes 90 pictures of each class that no other seed has. The
classifier has the first stages of a published one (dependency group `weights`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.audits import audit_once
from harness.faulty import Ground, Photographs, Pictures, planted, trained
from harness.planting import FAULTS, Fault, noisy
from ttame_core import spec
from ttame_core.audits.specification import complete
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import connect
from ttame_core.lake.query.variables import set_variables
from ttame_core.report.findings import sql_text

EXPLAINERS: dict[str, dict[str, Any]] = {  # with their settings
    **{name: {} for name in ("ttame", "gradcam", "layercam", "saliency")},
    "occlusion": {"window": 0.25, "stride": 0.125},  # 50 passes for a map
}
BACKBONES = ("faulty", "clean")
ASPECTS = ("place_alike", "look_alike", "outside")  # the last one needs boxes
FEWEST = 5  # images of a class that is judged
USUAL = 0.75  # quantile of the images that is a class's score, as in report/sql/alike.sql
TITLES = {"place_alike": "place", "look_alike": "look", "outside": "outside boxes"}
IN_PLACE = ("tag-100", "tag-90", "frame", "watermark", "background")  # which maps can show
# A row per map: of the images that a backbone takes for a class, by key.
VALUES = """
SELECT p.backbone, v.explainer, s.path, p.predicted, v.metric, v.value
FROM metric_values AS v
JOIN predicted_numbers AS p USING (dataset, backbone, key) JOIN samples AS s USING (dataset, key)
WHERE v.metric IN ('place_alike', 'look_alike', 'energy_in_box') AND v.explainer IN
"""


def compare(
    workspace: Path,
    seeds: Sequence[int],
    names: Sequence[str],
    steps: int,
    photographs: Path | None,
) -> Iterable[Table]:
    """Plant and audit what is not there yet, and return the tables.

    Args:
        workspace: folder of pictures, weights, audits and results.
        seeds: seeds of the pictures, the training, and the class with the fault.
        names: names of the faults.
        steps: least number of steps with which T-TAME's heads are trained.
        photographs: folder of photographs; None for drawn pictures.
    """
    console = Console()
    results = []
    ground = Photographs(photographs) if photographs else Ground()
    for seed in seeds:
        for fault in FAULTS:
            if fault.name in names:
                place = workspace / f"{fault.name}-{seed}"
                if not (place / "result.json").exists():
                    console.print(f"{fault.name}, seed {seed}")
                    result = _audited(ground, fault, seed, place, steps)
                    (place / "result.json").write_text(json.dumps(result))
                results.append(json.loads((place / "result.json").read_text()))
    yield from (_by_fault(results, explainer) for explainer in EXPLAINERS)
    yield _together(results)
    yield _alarms(results)


@cache
def _pictures(ground: Ground, split: str, seed: int) -> Pictures:
    return ground.pictures(split, seed)


@cache
def _features(ground: Ground, seed: int) -> Tensor:
    """Return what the frozen layers make of the training pictures as they are."""
    return ground.frozen(_pictures(ground, "train", seed).pixels)


def _audited(ground: Ground, fault: Fault, seed: int, place: Path, steps: int) -> dict[str, Any]:
    """Train, audit and ask; return what was found, as JSON has it."""
    target, classes = ground.target(seed), ground.classes(seed)
    train = planted(_pictures(ground, "train", seed), fault, target, seed)
    test = _pictures(ground, "test", seed)
    if fault.where == "pictures":  # as the training pictures are; labels of the test are right
        test = planted(test, fault, target, seed + 1000)
    _weights(ground, fault, seed, place, train)
    _write(place / "pictures", classes, {"train": train, "test": test})
    audit = _spec(ground, classes, fault, place, steps)
    audit_once(audit, str(place / "lake"))
    found = _asked(ground, classes, audit, place, test)
    return {"fault": fault.name, "seed": seed, "class": target} | found


def _weights(ground: Ground, fault: Fault, seed: int, place: Path, train: Pictures) -> None:
    """Write the weights of the faulty classifier and of its clean twin."""
    place.mkdir(parents=True, exist_ok=True)
    clean, faulty = place.parent / f"clean-{seed}.safetensors", place / "faulty.safetensors"
    features = _features(ground, seed)
    if not clean.exists():
        own = _pictures(ground, "train", seed)
        save_file(trained(ground.frozen, features, own.labels, seed), clean)
    if fault.where in ("pictures", "labels"):
        features = features.clone()
        hit = np.flatnonzero(train.planted)
        features[hit] = ground.frozen([train.pixels[number] for number in hit])
        save_file(trained(ground.frozen, features, train.labels, seed), faulty)
    else:
        weights = load_file(clean)
        save_file(noisy(weights, fault.rate, seed) if fault.where == "weights" else weights, faulty)


def _write(folder: Path, classes: Sequence[str], splits: dict[str, Pictures]) -> None:
    """Write pictures and masks as PNG files, in folders of splits and classes."""
    for split, pictures in splits.items():
        rows = zip(pictures.pixels, pictures.objects, pictures.labels, strict=True)
        for number, (pixels, objects, label) in enumerate(rows):
            name = Path(split, classes[label], f"{number:04d}.png")
            for kind, values in (("images", pixels), ("masks", objects.astype(np.uint8))):
                path = folder / kind / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)


def _spec(
    ground: Ground, classes: Sequence[str], fault: Fault, place: Path, steps: int
) -> spec.AuditSpec:
    network = ground.frozen.architecture
    own = {"mean": list(network.mean), "std": list(network.std)}
    views = {"clean": {"input_size": [network.side] * 2, "crop_pct": 1.0, **own}}
    views["faulty"] = dict(views["clean"])
    if fault.name == "bgr":
        views["faulty"]["channel_order"] = "bgr"
    if fault.name == "mean-twice":  # (x − m) / s − m = (x − (m + m · s)) / s
        mean, std = np.array(network.mean), np.array(network.std)
        views["faulty"]["mean"] = (mean + mean * std).tolist()
    training = {"min_steps": steps} | ({"batch_size": 16} if steps else {})
    explainers = dict(EXPLAINERS)
    if fault.where == "head":
        explainers["ttame"] = {"training": {"labels": "permuted"}}
    files = {"clean": place.parent / f"clean-{place.name.rsplit('-', 1)[1]}.safetensors"}
    files["faulty"] = place / "faulty.safetensors"
    spec.trust(network.section["model"])
    model = network.section | {"num_classes": len(classes)}
    pictures = place / "pictures"
    masks = {"annotations": {"kind": "masks", "path": str(pictures / "masks")}}
    metrics: list[Any] = [{"confidence": {"keep": [15]}}, "shape", "marked"]
    return complete(
        spec.AuditSpec.model_validate(
            {
                "name": "planted",
                "dataset": {
                    "name": "planted",
                    "source": {"kind": "folder", "path": str(pictures / "images")},
                    "classes": list(classes),
                    **(masks if ground.annotated else {}),
                },
                "backbones": [
                    model
                    | {"name": name, "checkpoint": str(files[name]), "preprocessing": views[name]}
                    for name in BACKBONES
                ],
                "explainers": [{name: settings} for name, settings in explainers.items()],
                "training": training,
                "evaluation": {
                    "metrics": [*metrics, *(["localization"] if ground.annotated else [])]
                },
                "compute": {"device": "cpu", "batch_size": 25, "workers": 1},
            }
        )
    )


def _asked(
    ground: Ground, classes: Sequence[str], audit: spec.AuditSpec, place: Path, test: Pictures
) -> dict[str, Any]:
    """Ask the lake: scores of classes, and how well the pictures with the fault are ranked."""
    lake = Lake(str(place / "lake"))
    with connect(lake) as db:
        rows = db.execute(f"{VALUES} {tuple(EXPLAINERS)}").fetchall()
        right = db.execute(
            "SELECT backbone, avg((label = predicted)::INT) FROM predicted_numbers GROUP BY ALL"
        ).fetchall()
        set_variables(db, {"dataset": audit.dataset.name, "backbones": list(BACKBONES)})
        normalised = db.sql(sql_text("normalised")).to_arrow_table().to_pylist()
        named = {explainer: _named(db, classes, explainer) for explainer in EXPLAINERS}
    found: dict[str, Any] = {"accuracy": dict(right), "classes": {}, "images": {}, "named": named}
    found["otherwise"] = {row["backbone"]: row["way"] for row in normalised}
    of_image = {number: bool(flag) for number, flag in enumerate(test.planted)}
    for backbone in BACKBONES:
        for explainer in EXPLAINERS:
            for aspect in ASPECTS if ground.annotated else ASPECTS[:2]:
                metric = "energy_in_box" if aspect == "outside" else aspect
                own = [
                    (int(Path(path).stem), predicted, 1 - v / 100 if aspect == "outside" else v)
                    for b, e, path, predicted, m, v in rows
                    if (b, e, m) == (backbone, explainer, metric)
                ]
                name = f"{backbone}/{explainer}/{aspect}"
                found["classes"][name] = _classes(own)
                if test.planted.any():
                    flags = np.array([of_image[number] for number, *_ in own])
                    found["images"][name] = _ranked(np.array([v for *_, v in own]), flags)
    newest = sorted(lake.glob("audits/planted/*/answers.json"))[-1]
    words = [line["words"] for answer in lake.read_json(newest) for line in answer["lines"]]
    found["answers"] = words
    found["alarms"] = {
        backbone: sorted(
            number
            for number, name in enumerate(classes)
            if any(
                w.startswith(f"{backbone}: the maps of {name} mark ")
                or (w.startswith(f"{backbone}: ") and f"take the probability of {name} from" in w)
                or (w.startswith(f"{backbone}: ") and f" images of {name} are taken for " in w)
                for w in words
            )
        )
        for backbone in BACKBONES
    }
    return found


def _named(
    db: duckdb.DuckDBPyConnection, classes: Sequence[str], explainer: str
) -> dict[str, list[int]]:
    """Return the classes of each backbone that the report names where it has this explainer's maps.

    The rule is that of classes whose maps are alike; it needs no boxes.
    """
    set_variables(db, {"rivals": [explainer], "most": 1})
    rows = db.sql(sql_text("alike")).to_arrow_table().to_pylist()
    of = {b: {row["class"] for row in rows if row["backbone"] == b} for b in BACKBONES}
    return {b: sorted(map(classes.index, names)) for b, names in of.items()}


def _classes(rows: Sequence[tuple[int, int, float]]) -> dict[int, float]:
    """Return the score of each class with enough images."""
    by_class: dict[int, list[float]] = {}
    for _, predicted, value in rows:
        by_class.setdefault(predicted, []).append(value)
    return {
        c: float(np.quantile(values, USUAL))
        for c, values in by_class.items()
        if len(values) >= FEWEST
    }


def _ranked(values: np.ndarray, flags: np.ndarray) -> dict[str, float]:
    """Return precision at 10 and the area under ROC."""
    first = np.argsort(-values, kind="stable")[:10]
    return {"at_10": float(flags[first].mean()), "auc": area(values[flags], values[~flags])}


def area(high: Sequence[float] | np.ndarray, low: Sequence[float] | np.ndarray) -> float:
    """Return the share of all pairs in which the first is higher; equals count half."""
    a, b = np.asarray(high, float)[:, None], np.asarray(low, float)[None]
    return float(((a > b) + 0.5 * (a == b)).mean()) if a.size and b.size else float("nan")


# ---- tables ---------------------------------------------------------------------------------


def _aspects(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the aspects that were measured: without annotated objects not all of them."""
    names = {name for result in results for name in result["classes"]}
    return [a for a in ASPECTS if f"faulty/{next(iter(EXPLAINERS))}/{a}" in names]


def _top(result: dict[str, Any], name: str) -> tuple[float, int]:
    """Return the highest score of a class and this class; NaN and −1 where no class is judged."""
    scores = result["classes"][name]
    best = max(scores, key=scores.get, default=None)
    return (float("nan"), -1) if best is None else (scores[best], int(best))


def _told(results: Sequence[dict[str, Any]], explainer: str) -> list[str]:
    """Count the audits that name the class with the fault, and those that name one of the twin."""
    named = sum(r["class"] in r["named"][explainer]["faulty"] for r in results)
    alarms = sum(bool(r["named"][explainer]["clean"]) for r in results)
    return [f"{number} of {len(results)}" for number in (named, alarms)]


def _by_fault(results: Sequence[dict[str, Any]], explainer: str) -> Table:
    """Make the table of faults: scores of the faulty classifier and the twin, means of seeds."""
    title = f"{explainer}: highest score of a class, faulty (clean); images: P@10 / AUC"
    table = Table(title=title)
    aspects = _aspects(results)
    columns = [TITLES[a] for a in aspects]
    images = [f"images: {name}" for name in columns]
    for column in ("fault", "accuracy", *columns, "named", "twin's alarms", *images):
        table.add_column(column, justify="left" if column == "fault" else "right")
    for fault in FAULTS:
        own = [r for r in results if r["fault"] == fault.name]
        if not own:
            continue
        cells = [
            "{} ({})".format(*(_mean([100 * r["accuracy"][b] for r in own], 0) for b in BACKBONES))
        ]
        for aspect in aspects:
            tops = [[_top(r, f"{b}/{explainer}/{aspect}")[0] for r in own] for b in BACKBONES]
            cells.append("{} ({})".format(*map(_mean, tops)))
        cells += _told(own, explainer)
        for aspect in aspects:
            ranks = [r["images"].get(f"faulty/{explainer}/{aspect}") for r in own]
            ends = [[rank[key] for rank in ranks if rank] for key in ("at_10", "auc")]
            cells.append(" / ".join(map(_mean, ends)) if ends[0] else "–")
        table.add_row(fault.name, *cells)
    return table


def _mean(values: Sequence[float], digits: int = 2) -> str:
    """Write the mean of the values that are known; a dash where none is."""
    known = [value for value in values if not np.isnan(value)]
    return f"{np.mean(known):.{digits}f}" if known else "–"


def _together(results: Sequence[dict[str, Any]]) -> Table:
    """Make the table of explainers, over the faults in one place and all seeds."""
    table = Table(title=f"Faults in one place ({', '.join(IN_PLACE)}), all seeds")
    for column in ("explainer", "score"):
        table.add_column(column)
    for column in ("pairs: AUC", "highest", "named", "twin's alarms", "P@10", "images: AUC"):
        table.add_column(column, justify="right")
    own = [r for r in results if r["fault"] in IN_PLACE]
    for explainer in EXPLAINERS if own else ():
        for aspect in _aspects(results):
            name = f"{explainer}/{aspect}"
            faulty = [_top(r, f"faulty/{name}") for r in own]
            clean = [_top(r, f"clean/{name}")[0] for r in own]
            highest = sum(t[1] == r["class"] for t, r in zip(faulty, own, strict=True))
            cells = [f"{area([t[0] for t in faulty], clean):.2f}", f"{highest} of {len(own)}"]
            if aspect == ASPECTS[0]:  # the rule has place and look, and has one line
                cells += _told(own, explainer)
            else:
                cells += ["", ""]
            ranks = [r["images"][f"faulty/{name}"] for r in own]
            cells += [_mean([rank[key] for rank in ranks]) for key in ("at_10", "auc")]
            table.add_row(explainer, TITLES[aspect], *cells)
    return table


def _alarms(results: Sequence[dict[str, Any]]) -> Table:
    """Make the table of what the report says without boxes: classes that it names."""
    table = Table(title="Alarms of the report: audits with a class, or a preprocessing, in doubt")
    for column in ("fault", "faulty", "named", "clean twin", "preprocessing", "of the twin"):
        table.add_column(column, justify="left" if column == "fault" else "right")
    for fault in FAULTS:
        own = [r for r in results if r["fault"] == fault.name]
        raised = [sum(bool(r["alarms"][b]) for r in own) for b in BACKBONES]
        named = sum(r["class"] in r["alarms"]["faulty"] for r in own)
        if own:
            doubted = [sum(r["otherwise"][b] is not None for r in own) for b in BACKBONES]
            numbers = raised[0], named, raised[1], *doubted
            cells = [f"{number}/{len(own)}" for number in numbers]
            table.add_row(fault.name, *cells)
    return table


def add_options(parser: Any) -> None:
    names = [fault.name for fault in FAULTS]
    parser.add_argument("--planted", type=Path, default=Path("build/planted"), help="workspace")
    parser.add_argument("--photographs", type=Path, help="folder of class folders of photographs")
    parser.add_argument("--planted-seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--faults", nargs="+", choices=names, default=names)
    parser.add_argument("--steps", type=int, default=300, help="of T-TAME's heads, at least")


def tables(options: argparse.Namespace) -> Iterable[Table]:
    """Return the tables that the options ask for."""
    asked = options.planted_seeds, options.faults, options.steps
    return compare(options.planted, *asked, photographs=options.photographs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    console = Console(width=120)
    for table in tables(parser.parse_args()):
        console.print(table)


if __name__ == "__main__":
    main()
