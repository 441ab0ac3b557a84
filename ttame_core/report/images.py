"""The page on which readers choose images: it carries their predictions, pictures and maps."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from markupsafe import Markup
from PIL import Image

from ttame_core.audits.record import Recorded
from ttame_core.lake.query.connection import answer
from ttame_core.lake.query.variables import set_variables
from ttame_core.report.album import EXPLAINERS, QUALITY
from ttame_core.report.assets import asset, script_hash, template
from ttame_core.report.findings import Findings, sql_text
from ttame_core.report.pictures import Sample, each_sample, heat_of
from ttame_core.report.plots import looks

MOST = 6000  # predictions on the page, of all backbones together: about 1 MB
PICTURED = 300  # predictions with pictures: about 2 MB
SIDE = 160  # side of a picture in pixels, at most
CELLS = 28  # side of a map, at most; larger maps are averaged


def render_images(recorded: Recorded, findings: Findings) -> str:
    """Return the page of images as HTML, which needs no other files.

    Args:
        recorded: content of the record; its connection is the one of `gather`.
        findings: findings about the audit.
    """
    explainers = [*looks(findings.order, {})][:EXPLAINERS]
    backbones = sorted({row["backbone"] for row in recorded.board.to_pylist()})
    bounds = {"most": MOST, "pictured": PICTURED}
    each = {name: math.ceil(bound / max(1, len(backbones))) for name, bound in bounds.items()}
    set_variables(recorded.db, each)
    rows = answer(recorded.db, sql_text("images")).to_pylist()
    pictures = _Pictures()
    pictured = _pictured(recorded, rows, explainers, pictures)
    predictions = _predictions(rows, explainers, pictured, findings.suspected)
    data = {"explainers": explainers, "rows": predictions, "views": pictures.views}
    script, style = asset("images.js"), asset("page.css")
    return template("images.html").render(
        title=f"Images of audit {recorded.audit.name}",
        when=recorded.now.strftime("%Y-%m-%d %H:%M UTC"),
        version=recorded.versions["ttame"],
        script=Markup(script),
        script_hash=script_hash(script),
        style=Markup(style),
        data=Markup(_within_a_script(data)),
        shown=len(predictions),
        pictured=len(pictured),
        boxes=any(own.get("boxes") for own in predictions),
        images=sum({row["backbone"]: row["images"] for row in rows}.values()),
        small=[*findings.small_trust(recorded.board).values()],
        keep=f"{findings.keep:g}" if findings.keep is not None else None,
        sql=findings.sql["predictions"],
    )


def _within_a_script(data: Any) -> str:
    """Write data as JSON in which nothing ends the element that holds it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _predictions(
    rows: Sequence[Mapping[str, Any]],
    explainers: Sequence[str],
    pictured: Mapping[tuple[str, str], dict[str, Any]],
    suspected: Collection[tuple[str, str]],
) -> list[dict[str, Any]]:
    """Return an object for each prediction, with the scores of all explainers.

    Args:
        rows: rows of images.sql.
        explainers: names of the explainers on the page.
        pictured: pictures, by backbone and key.
        suspected: backbones with the names of classes that a shortcut may tell.
    """
    predictions: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        pair = row["backbone"], row["key"]
        own = predictions.setdefault(
            pair,
            {
                **{name: row[name] for name in ("backbone", "key", "class", "right")},
                "predicted": row["predicted_class"],
                "suspected": (row["backbone"], row["predicted_class"]) in suspected,
                "probability": _rounded(row["probability"]),
                "trust": [None] * len(explainers),
                "inside": [None] * len(explainers),
                **pictured.get(pair, {}),
            },
        )
        if row["explainer"] in explainers:
            place = explainers.index(row["explainer"])
            own["trust"][place] = _rounded(row["trust"])
            own["inside"][place] = row["inside"]
    return list(predictions.values())


def _rounded(value: float | None) -> float | None:
    """Round a number to four digits for the page; None for one that JSON cannot hold."""
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None


class _Pictures:
    """The classifiers' views on the page, each once.

    Attributes:
        views: addresses (data:) of the views.
    """

    def __init__(self) -> None:
        self.views: list[str] = []
        self._places: dict[bytes, int] = {}

    def place(self, view: Image.Image) -> int:
        """Return the place of a view in `views`, to which it is added where it is new."""
        view = view.copy()
        view.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        view.save(buffer, "WEBP", quality=QUALITY)
        encoded = buffer.getvalue()
        if encoded not in self._places:
            self._places[encoded] = len(self.views)
            self.views.append("data:image/webp;base64," + base64.b64encode(encoded).decode())
        return self._places[encoded]


def _pictured(
    recorded: Recorded,
    rows: Sequence[Mapping[str, Any]],
    explainers: Sequence[str],
    pictures: _Pictures,
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return view, boxes and maps of the pictured predictions, by backbone and key."""
    pairs = {(row["backbone"], row["key"]) for row in rows if row["pictured"]}
    if not pairs or not explainers:
        return {}
    return {
        (backbone, sample.key): _picture(sample, backbone, explainers, pictures)
        for sample in each_sample(
            recorded.lake,
            recorded.db,
            sorted({key for _, key in pairs}),
            recorded.audit.dataset.name,
            sorted({backbone for backbone, _ in pairs}),
            explainers,
        )
        for backbone in sample.views
        if (backbone, sample.key) in pairs
    }


def _picture(
    sample: Sample, backbone: str, explainers: Sequence[str], pictures: _Pictures
) -> dict[str, Any]:
    preprocessing = sample.views[backbone]
    view = preprocessing.view(sample.image.convert("RGB"))
    boxes = preprocessing.boxes(torch.from_numpy(sample.boxes), sample.image.size)
    sides = torch.tensor([view.width, view.height, view.width, view.height]) / 100
    return {
        "view": pictures.place(view),
        "size": view.size,
        "boxes": [[round(v, 1) for v in box] for box in (boxes / sides).clamp(0, 100).tolist()],
        "maps": [
            _map(heat_of(sample.maps[backbone, name])) if (backbone, name) in sample.maps else None
            for name in explainers
        ],
    }


def _map(heat: np.ndarray) -> list[Any]:
    """Return a map's height, width and values, a byte each, row by row in base64."""
    height, width = (min(side, CELLS) for side in heat.shape)
    small = cv2.resize(heat, (width, height), interpolation=cv2.INTER_AREA)
    values = (small.clip(0, 1) * 255).round().astype(np.uint8)
    return [height, width, base64.b64encode(values.tobytes()).decode()]
