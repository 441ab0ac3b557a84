"""A lake with known maps and scores: two backbones, two explainers and the ends of the scale."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from shutil import copytree

import numpy as np
from tiny import PLAIN

from ttame_core import spec
from ttame_core.audits.specification import complete
from ttame_core.lake import Lake, classes_file, maps_file, scores_file
from ttame_core.lake.families import schema_of
from ttame_core.lake.schemas import ANNOTATIONS, CLASSES, HISTORY, maps_schema

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"
# What each explainer keeps of the confidence: better by far, worse, the ends of the scale.
KEPT = {"ttame": 0.9, "gradcam": 0.5, "random": 0.05, "oracle": 0.95}
SECONDS = {"ttame": 0.01, "gradcam": 0.02, "random": 0.01, "oracle": 0.01}
AUDIT = {
    "name": "known",
    "dataset": {"name": "drawn", "source": {"kind": "shapes", "test": 12, "size": 64}},
    "backbones": [{"name": n, "model": "resnet10t", "pretrained": True} for n in ("net", "other")],
    "evaluation": {"metrics": ["confidence", "localization", "shape", "road", "curves"]},
}


def names_of(lake: Lake) -> list[tuple[str, int]]:
    """Key and label of the samples of the test split, in the order of the keys."""
    index = lake.read_table("datasets/drawn/index.parquet").to_pylist()
    return sorted((row["key"], row["label"]) for row in index if row["split"] == "test")


def known_lake(drawn: Lake, root: Path, without: Sequence[str] = ()) -> tuple[Lake, spec.AuditSpec]:
    """Twelve images of the backbones net and other.

    Of net, the last image is wrong, and all explainers look outside the box of the first two. All
    classes have hostile names. without: labels, boxes, classes (all but the first), or images.
    """
    copytree(Path(drawn.root, "datasets"), root / "datasets")  # and no other test's scores
    lake = Lake(root)
    index = lake.read_table("datasets/drawn/index.parquet")
    classes = [f"{name} {HOSTILE}" for name in index["class"].to_pylist()]
    place = index.schema.get_field_index("class")
    index = index.set_column(place, index.schema.field("class"), [classes])
    if "images" in without:
        index = index.slice(0, 0)
    lake.write_parquet("datasets/drawn/index.parquet", index, index.schema, {})
    if "boxes" in without:
        path = "datasets/drawn/annotations.parquet"
        lake.write_parquet(path, [], ANNOTATIONS, {})
    labels = sorted({(row["label"], row["class"]) for row in index.to_pylist()})
    for backbone in ("net", "other"):
        rows = [{"number": label, "name": name, "labels": [label]} for label, name in labels]
        lake.write_parquet(classes_file("drawn", backbone), rows, CLASSES, {})
    for backbone in ("net", "other") if "images" not in without else ():
        for explainer in KEPT:
            if explainer != "oracle" or "boxes" not in without:
                _write(lake, backbone, explainer, without)
    history = [
        {"epoch": 0, "step": step, "term": "loss", "value": 9.0 / step} for step in range(1, 21)
    ]
    history += [
        {"epoch": 0, "step": step, "term": "AD@15", "value": 50.0 - step} for step in (10, 20)
    ]
    folder = "heads/dataset=drawn/backbone=net/explainer=ttame"
    lake.write_parquet(f"{folder}/history.parquet", history, HISTORY, {})
    return lake, complete(spec.AuditSpec.model_validate(AUDIT))


def _write(lake: Lake, backbone: str, explainer: str, without: Sequence[str]) -> None:
    keys = [(key, 0 if "classes" in without else label) for key, label in names_of(lake)]
    common = [
        {
            "key": key,
            "label": label,
            "predicted": (label + 1) % 10 if (backbone, i) == ("net", 11) else label,
        }
        for i, (key, label) in enumerate(keys)
    ]
    for row in common:
        row["target"] = row["predicted"]
        if "labels" in without:
            row["label"] = None
    heat = np.zeros((4, 4), dtype=np.float16)
    heat[: 2 if explainer == "gradcam" else 1, :2] = 1
    rows = [{**r, "probability": 0.8, "height": 4, "width": 4, "map": heat.ravel()} for r in common]
    seen = {
        "input_size": PLAIN.input_size,
        "crop_pct": PLAIN.crop_pct,
        "crop_mode": PLAIN.crop_mode,
        "interpolation": PLAIN.interpolation,
        "mean": PLAIN.mean,
        "std": PLAIN.std,
    }
    place = ("drawn", backbone, explainer, "test-000000")
    lake.write_parquet(
        maps_file(*place), rows, maps_schema(4, 4), {}, preprocessing=json.dumps(seen)
    )
    scores: dict[str, list[dict]] = {"confidence": [], "localization": [], "shape": [], "cost": []}
    scores |= {"road": [], "curves": []}
    for i, row in enumerate(common):
        thumbnail = np.zeros(196, dtype=np.float32)
        thumbnail[2 * i + (explainer != "gradcam")] = 1
        for keep in (100.0, 50.0, 15.0):
            left = 0.8 * KEPT[explainer] * (1 - 0.01 * i) * (0.9 if keep == 15 else 1)
            scores["confidence"].append(
                {**row, "keep": keep, "fill": "zero", "p": 0.8, "p_masked": left}
            )
        outside = backbone == "net" and i < 2
        inside = 0.1 * i if outside else 0.5
        ious, found = [0.5] * 19, [(30, [0, 255]), (50, [0, 255]), (70, [])]
        scores["localization"].append(
            {**row, "object_share": 0.05 if i % 2 else 0.2, "pointing_game": not outside}
            | {"energy_in_box": inside, "weighting_game": inside, "average_precision": inside}
            | {"pixel_iou": ious, "box_iou": ious}
            | {f"{which}_found_{o}": runs for which in ("largest", "best") for o, runs in found}
        )
        scores["shape"].append(
            {**row, "complexity": 0.2, "sparseness": 0.5, "thumbnail": thumbnail}
        )
        scores["cost"].append(
            {**row, "seconds": SECONDS[explainer], "forward_passes": 1.0, "backward_passes": 0.0}
        )
        for order in ("MoRF", "LeRF"):
            for removed in (10.0, 50.0, 90.0):
                p = 0.8 - 0.008 * removed * KEPT[explainer]
                scores["road"].append(
                    {**row, "order": order, "removed": removed, "p": p, "kept": True}
                )
        for curve, fill in (("insertion", "blur"), ("deletion", "zero")):
            steps = np.linspace(0, 0.8, 5, dtype=np.float32)
            scores["curves"].append(
                {**row, "curve": curve, "fill": fill, "auc": 0.4, "probabilities": steps}
            )
    if "boxes" in without:
        del scores["localization"]
    for family, own in scores.items():
        lake.write_parquet(scores_file(family, *place), own, schema_of(family), {})
