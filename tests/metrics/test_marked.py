"""What maps mark, by hand; and how alike it is within classes, in SQL against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ttame_core.lake import Lake, scores_file
from ttame_core.lake.families import schema_of
from ttame_core.lake.query.connection import run_query
from ttame_core.metrics.marked import looks


def test_the_look_of_the_marked_tenth_by_hand() -> None:
    images = torch.full((1, 3, 10, 10), 0.5)
    images[0, 0, 0] = torch.tensor([0.0, 1.0] * 5)  # red stripes in the first row
    maps = torch.zeros(1, 10, 10)
    maps[0, 0] = 1  # ten of a hundred pixels
    found = looks(images, maps)[0]
    assert found[:6].tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5, 0, 0], abs=1e-6)
    # A pixel of the first row is in the middle of six pixels, or of four at its ends.
    ends = abs(0 - (0 + 1 + 0.5 + 0.5) / 4) + abs(1 - (1 + 0 + 0.5 + 0.5) / 4)
    inner = 4 * abs(1 - (0 + 1 + 0 + 1.5) / 6) + 4 * abs(0 - (1 + 0 + 1 + 1.5) / 6)
    assert found[6].item() == pytest.approx((ends + inner) / 10 / 3)


def test_equal_values_are_all_marked_so_the_order_of_pixels_does_not_matter() -> None:
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    flat = torch.full((1, 8, 8), 0.3)
    assert torch.allclose(looks(images, flat), looks(images.flip(3), flat))
    assert torch.allclose(looks(images, flat)[0, :3], images.mean(dim=(2, 3))[0])


def test_pictures_of_other_channels_are_looked_at_in_grey() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 8, 8, generator=generator)
    for channels in (1, 4):
        images = torch.rand(2, channels, 8, 8, generator=generator)
        grey = images.mean(dim=1, keepdim=True).repeat(1, 3, 1, 1)
        assert torch.allclose(looks(images, maps), looks(grey, maps))


def rows_of(classes: np.ndarray, chance: np.random.Generator) -> list[dict]:
    places = chance.normal(size=(len(classes), 49))
    places[classes == 1] += 2 * chance.normal(size=49)  # the maps of class 1 mark one place
    places -= places.mean(axis=1, keepdims=True)
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    seen = chance.uniform(size=(len(classes), 7)) * [1, 1, 1, 1, 1, 1, 0.01]
    seen[classes == 2, 0] += 5  # and those of class 2 mark what is red
    return [
        {"key": f"{i:03d}", "label": int(c), "predicted": int(c), "target": int(c)}
        | {"place": place.tolist(), "look": look.tolist()}
        for i, (c, place, look) in enumerate(zip(classes, places, seen, strict=True))
    ]


def likeness(vectors: np.ndarray, classes: np.ndarray, i: int) -> float:
    """The mean product with others of the class, less that with the other classes."""
    own = [vectors[i] @ vectors[j] for j in np.flatnonzero(classes == classes[i]) if j != i]
    others = [vectors[i] @ vectors[j] for j in np.flatnonzero(classes != classes[i])]
    return float(np.mean(own) - np.mean(others))


def test_likeness_in_sql_is_that_of_all_pairs(tmp_path: Path) -> None:
    chance, lake = np.random.default_rng(1), Lake(tmp_path)
    classes = np.repeat([0, 1, 2, 3], [9, 7, 8, 4])  # the last has too few
    rows = rows_of(classes, chance)
    for shard, part in (("test-000000", rows[:11]), ("test-000001", rows[11:])):
        path = scores_file("marked", "d", "net", "gradcam", shard)
        lake.write_parquet(path, part, schema_of("marked"), "x")
    asked = "SELECT key, metric, value FROM metric_values WHERE explainer = 'gradcam' ORDER BY key"
    values = {(r["key"], r["metric"]): r["value"] for r in run_query(lake, asked).to_pylist()}
    seen = np.array([row["look"] for row in rows])
    seen = (seen - seen.mean(axis=0)) / seen.std(axis=0)
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    places = np.array([row["place"] for row in rows])
    for i in range(24):
        expected = {
            "place_alike": likeness(places, classes, i),
            "look_alike": likeness(seen, classes, i),
        }
        for metric, value in expected.items():
            assert values[f"{i:03d}", metric] == pytest.approx(value, abs=1e-5)
    assert len(values) == 2 * 24  # and none of the class with four images
    place = [np.mean([values[f"{i:03d}", "place_alike"] for i in range(a, b)]) for a, b in SPANS]
    look = [np.mean([values[f"{i:03d}", "look_alike"] for i in range(a, b)]) for a, b in SPANS]
    assert np.argmax(place) == 1
    assert np.argmax(look) == 2


SPANS = ((0, 9), (9, 16), (16, 24))  # images of the classes 0, 1 and 2


def test_one_class_alone_has_no_value(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    rows = rows_of(np.zeros(8, int), np.random.default_rng(0))
    path = scores_file("marked", "d", "net", "gradcam", "test-000000")
    lake.write_parquet(path, rows, schema_of("marked"), "x")
    asked = "SELECT count(*) AS n FROM metric_values WHERE explainer = 'gradcam'"
    assert run_query(lake, asked).to_pylist() == [{"n": 0}]
