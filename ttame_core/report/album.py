"""The pictures of a report: the classifier's view of an image, the maps, and the masked images.

Few pictures are in the page itself; many are files beside it, in a folder `pictures`.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
import torch
from PIL import Image

from ttame_core.lake import Lake
from ttame_core.report.findings import Findings
from ttame_core.report.pictures import Sample, each_sample, heat_of, masked_view, overlay
from ttame_core.report.plots import looks

EXPLAINERS = 6  # explainers whose maps of an image are shown, at most
SIDE = 192  # side of a picture in pixels, at most
INSIDE = 900  # pictures in the page itself, at most: some 6 MB of photographs
QUALITY = 80  # of WebP, up to 100


@dataclass(frozen=True)
class MapPicture:
    """The pictures of an explainer's map of an image, and its scores.

    Attributes:
        explainer: name of the explainer.
        src: address of the picture of the map over the view.
        masked: address of the picture of the masked image; empty where it is not shown.
        left: probability of the class on the masked image; None where it is not known.
        energy: percentage of the map that lies in the boxes; None where it is not known.
    """

    explainer: str
    src: str
    masked: str
    left: float | None
    energy: float | None


@dataclass(frozen=True)
class Exhibit:
    """An image as one backbone sees it; `src` is the view's address, `boxes` in % of its sides."""

    backbone: str
    key: str
    label: str
    predicted: str
    right: bool
    probability: float
    width: int
    height: int
    src: str
    boxes: Sequence[tuple[float, float, float, float]]
    maps: Sequence[MapPicture]
    finding: Mapping[str, Any] = field(default_factory=dict)  # row with the reason to show it


def exhibits(
    lake: Lake, db: duckdb.DuckDBPyConnection, dataset: str, findings: Findings, folder: str
) -> dict[str, list[Exhibit]]:
    """Return the images that a report shows, by kind, in the order of the findings.

    Args:
        lake: the workspace.
        db: connection to the workspace.
        dataset: name of the data set.
        findings: findings, with the images to show and the reasons.
        folder: folder of the record, for pictures beside its page.
    """
    shown = [*looks(findings.order, {})]
    pairs = {(row["backbone"], row["key"]): row for row in findings.exhibits}
    beside = len(pairs) * (1 + 2 * min(EXPLAINERS, len(shown))) > INSIDE
    made: dict[tuple[str, str], Exhibit] = {}
    keys = sorted({key for _, key in pairs})
    backbones = sorted({backbone for backbone, _ in pairs})

    def place(picture: Image.Image) -> str:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=QUALITY)
        if not beside:
            return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
        name = f"pictures/{hashlib.sha256(buffer.getvalue()).hexdigest()[:20]}.webp"
        with lake.create(f"{folder}/{name}") as path:
            path.write_bytes(buffer.getvalue())
        return name

    if keys and shown:
        for sample in each_sample(lake, db, keys, dataset, backbones, shown):
            for backbone in sample.views:
                if (backbone, sample.key) in pairs:
                    made[backbone, sample.key] = _exhibit(sample, backbone, shown, findings, place)
    by_kind: dict[str, list[Exhibit]] = {}
    for row in findings.exhibits:
        if exhibit := made.get((row["backbone"], row["key"])):
            by_kind.setdefault(row["kind"], []).append(replace(exhibit, finding=row))
    return by_kind


def _exhibit(
    sample: Sample, backbone: str, shown: Sequence[str], findings: Findings, place: Any
) -> Exhibit:
    preprocessing = sample.views[backbone]
    view = preprocessing.view(sample.image.convert("RGB"))
    boxes = preprocessing.boxes(torch.from_numpy(sample.boxes), sample.image.size)
    scale = torch.tensor([view.width, view.height, view.width, view.height]) / 100
    maps = []
    for explainer in [e for e in shown if (backbone, e) in sample.maps][:EXPLAINERS]:
        heat = heat_of(sample.maps[backbone, explainer])
        scores = findings.scores.get((backbone, sample.key, explainer), {})
        masked = masked_view(view, heat, findings.keep) if findings.keep else None
        maps.append(
            MapPicture(
                explainer,
                place(overlay(view, heat)),
                place(masked) if masked else "",
                scores.get("p_masked"),
                scores.get("energy"),
            )
        )
    any_row = next(row for (name, _), row in sample.maps.items() if name == backbone)
    return Exhibit(
        backbone,
        sample.key,
        sample.label or any_row["predicted_class"],
        any_row["predicted_class"],
        not sample.label or any_row["predicted"] == any_row["label"],
        any_row["probability"],
        *view.size,
        place(view.copy()),
        [tuple(box) for box in (boxes / scale).clamp(0, 100).tolist()],
        maps,
    )
