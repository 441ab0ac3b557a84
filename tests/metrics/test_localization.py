"""Localisation by hand and against scipy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from ttame_core.metrics import THRESHOLDS, box_iou, energy_in_box, pointing_game

BOX = [torch.tensor([[2.0, 1.0, 6.0, 5.0]])]  # columns 2–5, rows 1–4


def test_pointing_game() -> None:
    maps = torch.zeros(1, 8, 8)
    assert not pointing_game(maps, BOX)  # a flat map points nowhere
    maps[0, 4, 5] = 1
    assert pointing_game(maps, BOX)
    maps[0, 5, 5] = 2  # just below the box
    assert not pointing_game(maps, BOX)


def test_energy() -> None:
    assert torch.isclose(energy_in_box(torch.ones(1, 8, 8), BOX), torch.tensor(16 / 64))
    assert energy_in_box(torch.zeros(1, 8, 8), BOX) == 0
    two = [torch.tensor([[0.0, 0.0, 4.0, 8.0], [2.0, 0.0, 6.0, 8.0]])]  # overlapping: counted once
    assert torch.isclose(energy_in_box(torch.ones(1, 8, 8), two), torch.tensor(0.75))


def test_box_iou_by_hand() -> None:
    maps = torch.zeros(1, 8, 8)
    maps[0, 1:5, 2:6] = 0.9
    maps[0, 1:5, 6:8] = 0.5  # below 0.5 the box grows to six columns
    overlaps = dict(zip(THRESHOLDS, box_iou(maps, BOX)[0].tolist(), strict=True))
    assert np.isclose(overlaps[0.9], 1.0)
    assert np.isclose(overlaps[0.5], 16 / 24)
    assert overlaps[0.95] == 0  # nothing is left


def test_the_best_annotated_box_counts() -> None:
    maps = torch.zeros(1, 8, 8)
    maps[0, 0:2, 0:2] = 1
    boxes = [torch.tensor([[4.0, 4.0, 8.0, 8.0], [0.0, 0.0, 2.0, 2.0]])]
    assert torch.allclose(box_iou(maps, boxes), torch.ones(1, len(THRESHOLDS)))


grids = hnp.arrays(np.float32, (9, 11), elements=st.floats(0, 1, width=32))


@settings(max_examples=40, deadline=None)
@given(grids, st.integers(0, 5), st.integers(0, 4), st.integers(1, 5), st.integers(1, 4))
def test_against_scipy(heat: np.ndarray, x: int, y: int, width: int, height: int) -> None:
    boxes = [torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32)]
    found = box_iou(torch.from_numpy(heat)[None], boxes)[0]
    for threshold, value in zip(THRESHOLDS, found.tolist(), strict=True):
        labels, count = ndimage.label(heat >= threshold, structure=np.ones((3, 3)))
        if not count:
            assert value == 0
            continue
        sizes = ndimage.sum_labels(np.ones_like(heat), labels, range(1, count + 1))
        best = {  # ties: any of the largest
            _overlap(piece, x, y, width, height)
            for piece, size in zip(ndimage.find_objects(labels), sizes, strict=True)
            if size == sizes.max()
        }
        assert min(abs(value - b) for b in best) < 1e-6
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
