"""Localisation by hand, against OpenCV, scipy and scikit-learn."""

from __future__ import annotations

import cv2
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
    contour_ious,
    energy_in_box,
    pixel_iou,
    pointing_game,
    weighting_game,
)
from ttame_core.metrics.localization import found_levels

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


def _at(threshold: float, maps: torch.Tensor, *corners: list[float]) -> list[float]:
    """IoU of the largest contour and of the best, at a share of the whole numbers up to 255."""
    both = contour_ious(maps, [torch.tensor(corners)])
    return [overlaps[0, int(255 * threshold)].item() for overlaps in both]


def test_boxes_of_contours_by_hand() -> None:
    maps = torch.zeros(1, 8, 8)
    maps[0, 1:5, 2:6] = 1
    maps[0, 1:5, 6:8] = 0.5  # 127 of 255: above 126 the box has six columns, above 127 four
    assert _at(0.9, maps, [2.0, 1.0, 6.0, 5.0]) == [
        1,
        1,
    ]  # the last column and row are one too many
    assert _at(0.9, maps, [2.99, 1.9, 6.6, 5.3]) == [1, 1]  # whole pixels
    assert _at(0.9, maps, [2.0, 1.0, 5.0, 4.0]) == [16 / 25, 16 / 25]
    wide = contour_ious(maps, BOX)[0][0]
    assert wide[126] == 25 / 30  # at the map's edge there is no column too many
    assert wide[127] == 1
    assert _at(0.5, maps * 0.1 + 3, [2.0, 1.0, 6.0, 5.0]) == [1, 1]  # min–max normalised


def test_a_hole_has_a_contour_too() -> None:
    ring = torch.zeros(1, 12, 12)
    ring[0, 1:10, 1:10] = 1
    ring[0, 3:8, 3:8] = 0
    assert _at(0.5, ring, [2.0, 2.0, 9.0, 9.0]) == [64 / 100, 1]  # of columns and rows 2 to 8
    ring[0, 0:3, 5] = ring[0, 1, 1] = 0  # a gap, so that it is no hole
    assert _at(0.5, ring, [2.0, 2.0, 9.0, 9.0]) == [64 / 100, 64 / 100]


def test_a_map_of_one_value_has_the_first_pixel() -> None:
    for value in (0.0, 0.3, torch.nan):
        maps = torch.full((1, 8, 8), value)
        assert _at(0.5, maps, [0.0, 0.0, 1.0, 1.0]) == [1 / 4, 1 / 4]


def test_the_best_annotated_box_counts() -> None:
    maps = torch.zeros(1, 8, 8)
    maps[0, 0:2, 0:2] = 1
    assert _at(0.5, maps, [4.0, 4.0, 8.0, 8.0], [0.0, 0.0, 2.0, 2.0]) == [1, 1]


def test_the_largest_contour_or_the_best() -> None:
    maps = torch.zeros(1, 9, 9)
    maps[0, 0:2, 0:2] = 1
    maps[0, 4:8, 4:8] = 1
    assert _at(0.5, maps, [0.0, 0.0, 2.0, 2.0]) == [0, 1]


def test_levels_at_which_a_box_is_found() -> None:
    overlaps = torch.zeros(3, 255, dtype=torch.float64)
    overlaps[0, 3:7] = 7 / 10
    overlaps[0, 9] = 0.71
    overlaps[1] = 1
    assert found_levels(overlaps, 0.7) == [[3, 7, 9, 10], [0, 255], []]
    assert found_levels(overlaps, 0.71) == [[9, 10], [0, 255], []]


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


@settings(max_examples=40, deadline=None)
@given(grids, st.integers(0, 5), st.integers(0, 4), st.integers(1, 5), st.integers(1, 4))
def test_boxes_are_those_of_the_authors(
    heat: np.ndarray, x: int, y: int, width: int, height: int
) -> None:
    annotated = np.array([x, y, x + width, y + height])
    largest, best = contour_ious(torch.from_numpy(heat)[None], [torch.from_numpy(annotated)[None]])
    spread = heat.max() - heat.min()
    grey = (255 * ((heat - heat.min()) / (spread if spread > 0 else 1))).astype(np.uint8)
    for level in range(255):
        above = grey > level
        boxes, area = _contours(above)
        overlaps = [_overlap(box, annotated, heat.shape) for box in boxes] or [
            _shared(np.zeros(4, int), annotated)
        ]
        assert best[0, level] == pytest.approx(max(overlaps), abs=1e-9)
        assert largest[0, level] == pytest.approx(overlaps[area], abs=1e-9)
        if len(boxes):
            assert sorted(boxes) == sorted(_components(above))
    inside = heat[y : y + height, x : x + width].sum(dtype=np.float64)
    total = heat.sum(dtype=np.float64)
    energy = float(energy_in_box(torch.from_numpy(heat)[None], [torch.from_numpy(annotated)[None]]))
    assert np.isclose(energy, inside / total if total else 0, atol=1e-5)


def _contours(above: np.ndarray) -> tuple[list[tuple[int, ...]], int]:
    """First and last column and row of OpenCV's contours, and which one has the largest area."""
    drawn = cv2.findContours(above.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    corners = [(*c.min(axis=(0, 1)).tolist(), *c.max(axis=(0, 1)).tolist()) for c in drawn]
    areas = [cv2.contourArea(contour) for contour in drawn]
    return corners, int(np.argmax(areas)) if areas else 0


def _components(above: np.ndarray) -> list[tuple[int, ...]]:
    """The same boxes, of scipy's components and of the holes in them with the pixels around."""
    framed = np.pad(above, 1)
    pieces = ndimage.find_objects(ndimage.label(framed, structure=np.ones((3, 3)))[0])
    holes = ndimage.find_objects(ndimage.label(~framed)[0])
    inner = [piece for piece in holes if piece[0].start > 0]
    return [(c.start - 1, r.start - 1, c.stop - 2, r.stop - 2) for r, c in pieces] + [
        (c.start - 2, r.start - 2, c.stop - 1, r.stop - 1) for r, c in inner
    ]


def _overlap(box: tuple[int, ...], annotated: np.ndarray, shape: tuple[int, ...]) -> float:
    x0, y0, x1, y1 = box
    ends = min(x1 + 1, shape[1] - 1), min(y1 + 1, shape[0] - 1)
    return _shared(np.array([x0, y0, *ends]), annotated)


def _shared(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two boxes of whole pixels, both ends of a side included, by their sets of pixels."""
    sets = [{(x, y) for x in range(c[0], c[2] + 1) for y in range(c[1], c[3] + 1)} for c in (a, b)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])
