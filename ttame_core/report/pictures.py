"""Pictures of maps, for the report, `ttame show` and the contact sheet of an audit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import cv2
import duckdb
import numpy as np
import pyarrow.compute as pc
import torch
from PIL import Image, ImageDraw, ImageFont

from ttame_core.backbones.classes import is_wnid, names_of
from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.data.images import render_image
from ttame_core.data.labels import number_of
from ttame_core.data.loader import image_bytes, read_shard
from ttame_core.errors import UserError, nearest
from ttame_core.lake import Lake
from ttame_core.perturbation.masking import keep_most_relevant, min_max, resize

TILE = 192  # side of a picture in a grid, in pixels
MARGIN = 8
LINE = 18  # height of a line of text, in pixels
INK, PAPER, BOX_COLOUR = "#1c1c1c", "#ffffff", "#ff3b30"
ORDER = ("ttame", "gradcam", "oracle", "random")


@dataclass(frozen=True)
class Sample:
    """An image with its annotation and its maps of the class that each backbone predicts.

    Attributes:
        label: name of the image's class; empty where it is not known.
        maps: rows of the view `maps`, by backbone and explainer, with names of classes
            (predicted_class, class).
        views: preprocessing of each backbone, by its name.
    """

    key: str
    label: str
    image: Image.Image
    boxes: np.ndarray  # (N, 4), in pixels of the image
    maps: dict[tuple[str, str], dict[str, Any]]
    views: dict[str, Preprocessing]


def overlay(view: Image.Image, heat: np.ndarray) -> Image.Image:
    """Draw a map in viridis over a dim grey view, the more opaque the higher the map is.

    Args:
        view: the classifier's view.
        heat: map (h, w) in [0, 1], which is upsampled bilinearly.
    """
    heat = _upsample(heat, view.size)[..., None]
    grey = 0.8 * np.asarray(view.convert("L"), dtype=np.float32)[..., None]
    opacity = 0.15 + 0.6 * heat
    return Image.fromarray(((1 - opacity) * grey + opacity * _viridis(heat)).astype(np.uint8))


def heatmap(heat: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Draw a map (h, w) in [0, 1] in viridis, upsampled bilinearly to `size` (width, height)."""
    return Image.fromarray(_viridis(_upsample(heat, size)[..., None]).astype(np.uint8))


def _upsample(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    resized = cv2.resize(heat.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return resized.clip(0, 1)


def _viridis(heat: np.ndarray) -> np.ndarray:
    levels = (heat[..., 0] * 255).astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1].astype(np.float32)


def find_samples(
    lake: Lake,
    db: duckdb.DuckDBPyConnection,
    keys: Sequence[str],
    dataset: str | None = None,
    backbones: Sequence[str] | None = None,
    explainers: Sequence[str] | None = None,
) -> list[Sample]:
    """Return samples by key, with their maps.

    Args:
        lake: the workspace.
        db: connection to the workspace.
        keys: keys of the samples.
        dataset: name of the data set; None for the one that has the keys.
        backbones: names of the backbones to show; None for all with maps.
        explainers: names of the explainers to show; None for all with maps.

    Raises:
        UserError: no sample has a key, or a sample has no such maps.
    """
    listed = db.sql(
        "FROM samples WHERE list_contains(?, key) AND ? IN (dataset, '')",
        params=[list(keys), dataset or ""],
    )
    rows = {row["key"]: row for row in listed.to_arrow_table().to_pylist()}
    for key in keys:
        if key not in rows:
            known = [k for (k,) in db.execute("SELECT key FROM samples").fetchall()]
            raise UserError(
                f"no sample has the key {key} in the workspace {lake}." + nearest(key, known)
            )
    chosen = [rows[key] for key in dict.fromkeys(keys)]
    samples = {s.key: s for s in _each_sample(lake, db, chosen, backbones, explainers)}
    for key in keys:
        if key not in samples:
            raise UserError(
                f"there are no such maps of {key} (split {rows[key]['split']}): "
                "run `ttame explain` on that split, or name other backbones or explainers"
            )
    return [samples[key] for key in keys]


def each_sample(
    lake: Lake,
    db: duckdb.DuckDBPyConnection,
    keys: Sequence[str],
    dataset: str,
    backbones: Sequence[str],
    explainers: Sequence[str],
) -> Iterator[Sample]:
    """Yield the samples of `find_samples` in the order of the shards, without those without maps.

    Memory holds one image, and the maps of one shard's samples.

    Args:
        lake: the workspace.
        db: connection to the workspace.
        keys: keys of the samples.
        dataset: name of the data set.
        backbones: names of the backbones to show.
        explainers: names of the explainers to show.
    """
    rows = db.sql(
        "FROM samples WHERE list_contains(?, key) AND dataset = ?", params=[list(keys), dataset]
    ).to_arrow_table()
    yield from _each_sample(lake, db, rows.to_pylist(), backbones, explainers)


def _each_sample(
    lake: Lake,
    db: duckdb.DuckDBPyConnection,
    rows: Sequence[dict[str, Any]],
    backbones: Sequence[str] | None,
    explainers: Sequence[str] | None,
) -> Iterator[Sample]:
    """Yield the samples of rows of the view `samples`; every shard is read once."""
    view_of = cache(partial(_view_of, lake))
    shards: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        shards.setdefault((row["dataset"], row["shard"]), {})[row["key"]] = row
    for (dataset, shard), wanted in sorted(shards.items()):
        maps = db.sql(
            "SELECT maps.*, class_name(predicted, its.name) AS predicted_class, "
            "own.name AS class FROM maps "
            "LEFT JOIN classes AS its ON its.dataset = maps.dataset "
            "AND its.backbone = maps.backbone AND its.number = predicted "
            "LEFT JOIN classes AS own ON own.dataset = maps.dataset "
            "AND own.backbone = maps.backbone AND own.number = label "
            "WHERE maps.dataset = ? AND shard = ? AND list_contains(?, key) "
            "AND target = predicted AND (? OR list_contains(?, maps.backbone)) "
            "AND (? OR list_contains(?, explainer))",
            params=[
                dataset,
                shard,
                list(wanted),
                not backbones,
                list(backbones or []),
                not explainers,
                list(explainers or []),
            ],
        ).to_arrow_table()
        boxes = db.sql(
            "SELECT key, x0, y0, x1, y1 FROM boxes "
            "WHERE dataset = ? AND list_contains(?, key) ORDER BY key, object",
            params=[dataset, list(wanted)],
        ).to_arrow_table()
        for raw in read_shard(lake, dataset, shard):
            key = raw["__key__"]
            if key not in wanted:
                continue
            own = maps.filter(pc.equal(maps["key"], key)).to_pylist()
            if not own:
                continue
            corners = boxes.filter(pc.equal(boxes["key"], key)).drop_columns("key").to_pylist()
            yield Sample(
                key,
                _label(wanted[key]["class"], next((row["class"] for row in own), None)),
                render_image(image_bytes(raw), key),
                np.array([[*c.values()] for c in corners], dtype=np.float32).reshape(-1, 4),
                {(row["backbone"], row["explainer"]): row for row in own},
                {row["backbone"]: view_of(dataset, row["backbone"]) for row in own},
            )


def _label(own: str | None, matched: str | None) -> str:
    """Return what an image's class is called, for readers; empty where it is not known.

    Args:
        own: the name that the data set has for it, which may be a number or a wnid.
        matched: the name that a classifier has for it.
    """
    if own is None:
        return ""
    if is_wnid(own):
        return matched or names_of([own]).names[0]
    return own if number_of(own) is None else matched or f"class {own}"


def _said(sample: Sample, backbone: str, row: dict[str, Any]) -> str:
    """Say what a backbone takes an image for, and whether that is right where it is known."""
    probability = f"{row['probability']:.2f}"
    if not sample.label:
        return f"{backbone}: {row['predicted_class']} {probability}"
    right = row["label"] == row["predicted"]
    verdict = "right" if right else f"takes it for {row['predicted_class']}"
    return f"{sample.label} · {backbone} {verdict} {probability}"


def _view_of(lake: Lake, dataset: str, backbone: str) -> Preprocessing:
    """Return a backbone's preprocessing, which is written in the files of its maps."""
    files = lake.glob(f"maps/dataset={dataset}/backbone={backbone}/*/*.parquet")
    said = (lake.metadata(file).get("preprocessing") for file in files)  # refusals have none
    return Preprocessing.from_config(json.loads(next(text for text in said if text)))


def masked_view(view: Image.Image, heat: np.ndarray, keep: float) -> Image.Image:
    """Return the masked view that metrics show the classifier.

    Args:
        view: the classifier's view.
        heat: map (h, w) in [0, 1], which is upsampled bilinearly.
        keep: percentage of the most relevant pixels that are kept.
    """
    size = (view.height, view.width)
    large = resize(min_max(torch.from_numpy(heat))[None, None], size)[0]
    kept = keep_most_relevant(large, [keep])[0, 0].numpy()[..., None]
    return Image.fromarray((np.asarray(view.convert("RGB")) * kept).astype(np.uint8))


def show_samples(samples: Sequence[Sample]) -> Image.Image:
    """Draw a row per sample and backbone: the view with boxes, then overlays and maps."""
    rows = []
    for sample in samples:
        for backbone in sorted({name for name, _ in sample.maps}):
            view, boxed = _boxed(sample, backbone)
            first = next(row for (name, _), row in sample.maps.items() if name == backbone)
            tiles = [(boxed, _said(sample, backbone, first))]
            for explainer in _explainers(sample, backbone):
                heat = heat_of(sample.maps[backbone, explainer])
                tiles.append((overlay(view, heat), explainer))
                tiles.append((heatmap(heat, view.size), ""))
            rows.append(tiles)
    return grid(rows)


def contact_sheet(samples: Sequence[Sample]) -> Image.Image:
    """Draw a row per sample: the image with its boxes, then the overlays of each backbone."""
    pairs = sorted({pair for sample in samples for pair in sample.maps}, key=_pair_order)
    rows: list[list[tuple[Image.Image | None, str]]] = []
    for sample in samples:
        _, boxed = _boxed(sample, next(iter(sample.views)))
        tiles: list[tuple[Image.Image | None, str]] = [(boxed, sample.label)]
        for backbone, explainer in pairs:
            tile = None
            if row := sample.maps.get((backbone, explainer)):
                tile = overlay(sample.views[backbone].view(sample.image), heat_of(row))
            tiles.append((tile, f"{backbone} · {explainer}" if not rows else ""))
        rows.append(tiles)
    return grid(rows)


def _pair_order(pair: tuple[str, str]) -> tuple[str, int, str]:
    backbone, explainer = pair
    return backbone, ORDER.index(explainer) if explainer in ORDER else len(ORDER), explainer


def _explainers(sample: Sample, backbone: str) -> list[str]:
    return [e for b, e in sorted(sample.maps, key=_pair_order) if b == backbone]


def heat_of(row: dict[str, Any]) -> np.ndarray:
    """Return the map (h, w) float32 in a row of the view `maps`."""
    return np.array(row["map"], dtype=np.float32).reshape(row["height"], row["width"])


def _boxed(sample: Sample, backbone: str) -> tuple[Image.Image, Image.Image]:
    """Return the classifier's view without and with boxes."""
    preprocessing = sample.views[backbone]
    view = preprocessing.view(sample.image)
    boxed = _fit(view).copy()
    scale = boxed.width / view.width
    draw = ImageDraw.Draw(boxed)
    for corners in preprocessing.boxes(torch.from_numpy(sample.boxes), sample.image.size):
        x0, y0, x1, y1 = (float(c) * scale for c in corners)
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=BOX_COLOUR, width=2)
    return view, boxed


def _fit(picture: Image.Image, tile: int = TILE) -> Image.Image:
    """Scale a picture so that its longer side is a tile's."""
    scale = tile / max(picture.size)
    size = round(picture.width * scale), round(picture.height * scale)
    return picture.resize(size, Image.Resampling.BICUBIC)


def grid(rows: Sequence[Sequence[tuple[Image.Image | None, str]]], tile: int = TILE) -> Image.Image:
    """Draw captioned pictures in rows and columns; rows without captions leave no room for them.

    Args:
        rows: pictures (None for an empty place) with their captions.
        tile: side of a picture, in pixels.
    """
    font = ImageFont.load_default(13)
    columns = max(len(row) for row in rows)
    heights = [tile + (LINE if any(text for _, text in row) else 0) for row in rows]
    width = MARGIN + columns * (tile + MARGIN)
    sheet = Image.new("RGB", (width, MARGIN + sum(heights) + MARGIN * len(rows)), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, (picture, text) in enumerate(row):
            left = MARGIN + column * (tile + MARGIN)
            if text:
                draw.text((left, top), _cut(text, font, tile), fill=INK, font=font)
            if picture is not None:
                sheet.paste(_fit(picture, tile), (left, top + height - tile))
        top += height + MARGIN
    return sheet


def _cut(text: str, font: Any, room: int) -> str:
    while font.getlength(text) > room:
        text = text.removesuffix("…")[:-1] + "…"
    return text
