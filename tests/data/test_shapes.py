"""The drawn data set is deterministic and a fair test of localisation."""

from __future__ import annotations

import numpy as np
import pytest

from ttame_core.data.shapes import CLASSES, draw_labels, draw_sample


@pytest.fixture(scope="module")
def many() -> list:
    return [draw_sample("train", index, size=64) for index in range(200)]


def test_a_sample_is_always_the_same() -> None:
    first, again = draw_sample("test", 7), draw_sample("test", 7)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    others = [draw_sample("test", 8), draw_sample("val", 7), draw_sample("test", 7, seed=1)]
    assert not any(np.array_equal(first.image, other.image) for other in others)


def test_label_is_known_without_drawing(many: list) -> None:
    assert [draw_labels("train", i, size=64) for i in range(200)] == [
        list(dict.fromkeys(s.labels)) for s in many
    ]


def test_boxes_are_tight_around_the_mask(many: list) -> None:
    for sample in many:
        assert sample.mask.max() == len(sample.boxes) in (1, 2)
        for number, (x0, y0, x1, y1) in enumerate(sample.boxes, start=1):
            ys, xs = np.nonzero(sample.mask == number)
            assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x0, y0, x1, y1)


def test_every_class_is_drawn_and_nothing_but_the_outline_tells_it(many: list) -> None:
    labels = np.array([s.labels[0] for s in many])
    assert set(labels) == set(range(len(CLASSES)))
    centres = np.array([np.mean(np.nonzero(s.mask), axis=1) for s in many if len(s.boxes) == 1])
    assert centres.std(axis=0).min() > 64 / 8  # not always central
    areas = np.array([(s.mask > 0).mean() for s in many])
    for label in range(len(CLASSES)):  # no class by its size or its colour
        assert areas[labels == label].min() < 0.10
    colours = np.array([s.image[s.mask > 0].mean(axis=0) for s in many])
    assert colours.std(axis=0).min() > 25


def test_large_objects_stay_inside_small_pictures() -> None:
    for index in range(60):
        sample = draw_sample("test", index, size=32)
        assert sample.mask.any()
