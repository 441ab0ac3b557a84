"""Pictures of maps: the right tiles in the right places."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tiny import PLAIN

from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import connect
from ttame_core.report.pictures import (
    MARGIN,
    TILE,
    Sample,
    contact_sheet,
    find_samples,
    heatmap,
    overlay,
    show_samples,
)

CORNER = np.array([[1.0, 0.0], [0.0, 0.0]])


def _map(heat: np.ndarray) -> dict:
    height, width = heat.shape
    return {
        "map": heat.ravel().tolist(),
        "height": height,
        "width": width,
        "label": 1,
        "predicted": 1,
        "predicted_class": "disc",
        "probability": 0.9,
    }


@pytest.fixture
def sample() -> Sample:
    maps = {
        (backbone, explainer): _map(CORNER)
        for backbone in ("b", "a")
        for explainer in ("random", "ttame")
    }
    image = Image.new("RGB", (64, 64), (200, 200, 200))
    boxes = np.array([[0, 0, 32, 32]], dtype=np.float32)
    return Sample("k", "disc", image, boxes, maps, {"a": PLAIN, "b": PLAIN})


def _lightness(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"), dtype=float)


def test_the_map_is_bright_where_it_is_high() -> None:
    grey = Image.new("RGB", (80, 60), (128, 128, 128))
    for picture in (overlay(grey, CORNER), heatmap(CORNER, (80, 60))):
        assert picture.size == (80, 60)
        light = _lightness(picture)
        assert light[:15, :20].min() > 1.5 * light[45:, 60:].max()


def test_show_has_a_row_per_backbone_with_image_overlay_and_map(sample: Sample) -> None:
    sheet = show_samples([sample])
    assert sheet.width == MARGIN + 5 * (TILE + MARGIN)  # the image, and two of each explainer
    rows = _lightness(sheet).shape[0] / (TILE + MARGIN)
    assert 2 < rows < 2.5
    red = np.asarray(sheet, dtype=int)
    box = (red[..., 0] > 200) & (red[..., 1] < 100)
    _, xs = np.nonzero(box)
    assert xs.min() == MARGIN
    assert xs.max() == MARGIN + TILE // 2 - 1  # half of the view, scaled to the tile


def test_contact_sheet_puts_backbones_side_by_side(sample: Sample) -> None:
    del sample.maps["a", "random"]
    sheet = contact_sheet([sample, sample])
    assert sheet.width == MARGIN + 4 * (TILE + MARGIN)
    assert sheet.height == MARGIN + 2 * (TILE + MARGIN) + 2 * 18  # both rows have a label


def test_keys_and_maps_that_are_not_there(drawn: tuple[Lake, str]) -> None:
    lake, name = drawn
    with pytest.raises(UserError, match="no sample has the key nothing"):
        _samples(lake, ["nothing"])
    ((key,),) = _first_key(lake)
    with pytest.raises(UserError, match=r"no such maps.*ttame explain"):
        _samples(lake, [key], name)


def _samples(lake: Lake, *given: object) -> list[Sample]:
    with connect(lake) as db:
        return find_samples(lake, db, *given)


def _first_key(lake: Lake) -> list[tuple[str]]:
    from ttame_core.lake.query.connection import connect

    with connect(lake) as db:
        return db.execute("SELECT min(key) FROM samples").fetchall()
