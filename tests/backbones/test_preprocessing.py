"""Pixels as timm's, and boxes and masks moved like the pixels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from tiny import PLAIN

MODES = ("center", "squash", "border")


def _with(**changes: object) -> type(PLAIN):
    return dataclasses.replace(PLAIN, **changes)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(90, 60), (50, 130), (64, 64), (30, 20)])
def test_pixels_are_timms(mode: str, size: tuple[int, int]) -> None:
    array = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(array)
    preprocessing = _with(crop_mode=mode, crop_pct=0.9, interpolation="bicubic")
    transform = create_transform(
        (3, 64, 64),
        is_training=False,
        interpolation="bicubic",
        mean=PLAIN.mean,
        std=PLAIN.std,
        crop_pct=0.9,
        crop_mode=mode,
    )
    ours = preprocessing.normalise(preprocessing.pixels(image)[None].float() / 255)[0]
    assert torch.allclose(ours, transform(image), atol=1e-5)


cases = st.tuples(
    st.sampled_from(MODES), st.integers(60, 200), st.integers(60, 200), st.floats(0.7, 1)
)


@settings(max_examples=60, deadline=None)
@given(cases, st.floats(0, 0.6), st.floats(0, 0.6), st.floats(0.2, 0.4))
def test_boxes_and_masks_move_with_the_picture(
    case: tuple, left: float, top: float, side: float
) -> None:
    mode, width, height, crop_pct = case
    preprocessing = _with(crop_mode=mode, crop_pct=crop_pct, input_size=(48, 64))
    x0, y0 = round(left * width), round(top * height)
    x1, y1 = x0 + round(side * width), y0 + round(side * height)
    array = np.zeros((height, width), dtype=np.uint8)
    array[y0:y1, x0:x1] = 1
    picture = Image.fromarray(array * 255).convert("RGB")
    seen = preprocessing.pixels(picture)[0].float() > 127
    moved = preprocessing.boxes(torch.tensor([[x0, y0, x1, y1]]).float(), (width, height))
    mask = preprocessing.mask(Image.fromarray(array))
    assert mask.shape == (48, 64)
    if not seen.any():
        assert len(moved) == 0 or (moved[0, 2:] - moved[0, :2]).min() < 1.5
        return
    ys, xs = torch.nonzero(seen, as_tuple=True)
    drawn = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    if mode != "border":  # border fills the padding with a colour of its own
        assert (moved[0] - drawn).abs().max() <= 1.01
    both = (seen & (mask > 0)).sum() / (seen | (mask > 0)).sum()
    if len(xs) > 100 and mode != "border":
        assert both > 0.75


def test_a_box_that_the_crop_cuts_away() -> None:
    preprocessing = _with(crop_pct=0.5)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 50.0, 50.0]])
    moved = preprocessing.boxes(boxes, (100, 100))
    assert moved.tolist() == [[0, 0, 32, 32]]
