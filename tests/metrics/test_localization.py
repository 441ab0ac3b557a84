"""Localisation by hand, against scipy and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from sklearn.metrics import average_precision_score, jaccard_score

from ttame_core.data.objects import inside_boxes, object_pixels
from ttame_core.metrics import (
    THRESHOLDS,
    average_precision,
    box_iou,
    energy_in_box,
    pixel_iou,
    pointing_game,
    weighting_game,
)

BOX = [torch.tensor([[2.0, 1.0, 6.0, 5.0]])]  # columns 2–5, rows 1–4
INSIDE = inside_boxes(BOX, (8, 8))


def test_pixels_of_boxes_and_masks() -> None:
    two = torch.tensor([[0.0, 0.0, 2.0, 1.0], [1.4, 0.0, 3.0, 2.0]])
    none = torch.zeros(0, 4)
    found = inside_boxes([two, none, BOX[0]], (3, 4))
    assert found[0].int().tolist() == [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert not found[1].any()
    assert found[2].int().tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert not inside_boxes([none], (3, 4)).any()
    mask = torch.zeros(3, 4, dtype=torch.uint8)
    mask[2, 0] = 7
    assert torch.equal(object_pixels([two, two], [None, mask], (3, 4))[1], mask > 0)


def test_pointing_game() -> None:
    maps = torch.zeros(1, 8, 8)
    assert not pointing_game(maps, INSIDE, 15)  # a flat map points nowhere
    maps[0, 4, 5] = 1
    assert pointing_game(maps, INSIDE)
    maps[0, 5, 5] = 2  # just below the box
    assert not pointing_game(maps, INSIDE)
    assert pointing_game(maps, INSIDE, 1)
    maps[0, 7, 7] = 3  # three rows and two columns away
    assert not pointing_game(maps, INSIDE, 3.6)
    assert pointing_game(maps, INSIDE, 3.61)
    assert not pointing_game(maps, torch.zeros(1, 8, 8, dtype=torch.bool), 15)


def test_energy() -> None:
    assert torch.isclose(energy_in_box(torch.ones(1, 8, 8), BOX), torch.tensor(16 / 64))
    assert energy_in_box(torch.zeros(1, 8, 8), BOX) == 0
    two = [torch.tensor([[0.0, 0.0, 4.0, 8.0], [2.0, 0.0, 6.0, 8.0]])]  # overlapping: counted once
    assert torch.isclose(energy_in_box(torch.ones(1, 8, 8), two), torch.tensor(0.75))
    maps = torch.tensor([[[3.0, 1.0], [4.0, 0.0]]])
    mask = torch.tensor([[[False, True], [True, False]]])
    assert torch.isclose(weighting_game(maps, mask), torch.tensor(5 / 8))


def test_box_iou_by_hand() -> None:
    maps = torch.zeros(1, 8, 8)
    maps[0, 1:5, 2:6] = 0.9
    maps[0, 1:5, 6:8] = 0.5  # below 0.5 the box grows to six columns
    largest, best = box_iou(maps, BOX)
    overlaps = dict(zip(THRESHOLDS, largest[0].tolist(), strict=True))
    assert np.isclose(overlaps[0.9], 1.0)
    assert np.isclose(overlaps[0.5], 16 / 24)
    assert overlaps[0.95] == 0  # nothing is left
    assert torch.equal(largest, best)


def test_the_best_annotated_box_counts() -> None:
    maps = torch.zeros(1, 8, 8)
    maps[0, 0:2, 0:2] = 1
    boxes = [torch.tensor([[4.0, 4.0, 8.0, 8.0], [0.0, 0.0, 2.0, 2.0]])]
    assert torch.allclose(box_iou(maps, boxes)[0], torch.ones(1, len(THRESHOLDS)))


def test_the_largest_component_or_the_best() -> None:
    maps = torch.zeros(1, 8, 8)
    maps[0, 0:2, 0:2] = 1
    maps[0, 4:8, 4:8] = 1
    boxes = [torch.tensor([[0.0, 0.0, 2.0, 2.0]])]
    largest, best = box_iou(maps, boxes, [0.5])
    assert largest.tolist() == [[0.0]]
    assert best.tolist() == [[1.0]]


def test_pixel_iou_by_hand() -> None:
    maps = torch.zeros(1, 8, 8)
    maps[0, 1:3, 2:6] = 0.8  # half of the box
    maps[0, 7] = 0.3
    found = dict(zip(THRESHOLDS, pixel_iou(maps, INSIDE)[0].tolist(), strict=True))
    assert np.isclose(found[0.8], 8 / 16)
    assert np.isclose(found[0.3], 8 / 24)
    assert found[0.85] == 0


def test_average_precision_by_hand() -> None:
    maps = torch.tensor([[[0.9, 0.8], [0.7, 0.1]]])
    objects = torch.tensor([[[True, False], [True, False]]])
    assert torch.isclose(average_precision(maps, objects), torch.tensor((1 + 2 / 3) / 2))
    assert average_precision(maps, torch.zeros_like(objects)).isnan()


heights = st.integers(0, 20).map(lambda i: np.float32(i / 20))  # with ties
grids = hnp.arrays(np.float32, (9, 11), elements=st.floats(0, 1, width=32) | heights)
masks = hnp.arrays(bool, (9, 11))


@settings(max_examples=20, deadline=None)
@given(grids, masks)
def test_pixels_against_scikit_learn(heat: np.ndarray, mask: np.ndarray) -> None:
    maps, objects = torch.from_numpy(heat)[None], torch.from_numpy(mask)[None]
    if mask.any():
        found = average_precision(maps, objects).item()
        assert found == pytest.approx(average_precision_score(mask.ravel(), heat.ravel()), abs=1e-5)
        assert average_precision(objects.float(), objects) == 1
    found = pixel_iou(maps, objects)[0]
    assert ((found >= 0) & (found <= 1)).all()
    for threshold, value in zip(THRESHOLDS, found.tolist(), strict=True):
        above = (heat >= np.float32(threshold)).ravel()
        expected = jaccard_score(mask.ravel(), above, zero_division=0)
        assert value == pytest.approx(expected, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(grids, st.integers(0, 5), st.integers(0, 4), st.integers(1, 5), st.integers(1, 4))
def test_boxes_against_scipy(heat: np.ndarray, x: int, y: int, width: int, height: int) -> None:
    boxes = [torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32)]
    largest, best = (found[0].tolist() for found in box_iou(torch.from_numpy(heat)[None], boxes))
    for threshold, of_largest, of_best in zip(THRESHOLDS, largest, best, strict=True):
        above = heat >= np.float32(threshold)
        labels, count = ndimage.label(above, structure=np.ones((3, 3)))
        if not count:
            assert of_largest == of_best == 0
            continue
        sizes = ndimage.sum_labels(np.ones_like(heat), labels, range(1, count + 1))
        overlaps = [_overlap(piece, x, y, width, height) for piece in ndimage.find_objects(labels)]
        assert of_best == pytest.approx(max(overlaps), abs=1e-6)
        equals = [o for o, size in zip(overlaps, sizes, strict=True) if size == sizes.max()]
        assert min(abs(of_largest - o) for o in equals) < 1e-6  # ties: any of the largest
    inside = heat[y : y + height, x : x + width].sum(dtype=np.float64)
    total = heat.sum(dtype=np.float64)
    energy = float(energy_in_box(torch.from_numpy(heat)[None], boxes))
    assert np.isclose(energy, inside / total if total else 0, atol=1e-5)


def _overlap(piece: tuple[slice, slice], x: int, y: int, width: int, height: int) -> float:
    rows, columns = piece
    across = max(0, min(columns.stop, x + width) - max(columns.start, x))
    down = max(0, min(rows.stop, y + height) - max(rows.start, y))
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return across * down / (area + width * height - across * down)
