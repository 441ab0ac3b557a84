"""Place and look of maps, by hand; and how alike they are within classes, in SQL against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ttame_core.lake import Lake, scores_file
from ttame_core.lake.families import schema_of
from ttame_core.lake.query.connection import run_query
from ttame_core.metrics.marked import looks, marked_pixels, places


def test_the_look_of_a_cell_by_hand() -> None:
    images = torch.full((1, 3, 14, 14), 0.5)
    images[0, 0, :2, :2] = torch.tensor([[0.0, 1.0], [0.0, 1.0]])  # red stripes in the first cell
    found = looks(images)[0].view(7, 49)
    assert found[:3, 0].tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert found[3:6, 0].tolist() == pytest.approx([0.5, 0, 0], abs=1e-6)
    # Means around the cell's four pixels, over 2 × 2, 2 × 3, 3 × 2 and 3 × 3 pixels of red: the
    # four have the sum 2, what lies outside the cell is 0.5.
    means = [2 / 4, (2 + 2 * 0.5) / 6, (2 + 2 * 0.5) / 6, (2 + 5 * 0.5) / 9]
    grain = [abs(value - mean) for value, mean in zip([0, 1, 0, 1], means, strict=True)]
    assert found[6, 0].item() == pytest.approx(sum(grain) / 4 / 3)
    assert found[:3, 48].tolist() == [0.5] * 3
    assert found[3:, 48].tolist() == pytest.approx([0] * 4, abs=1e-6)


def test_places_are_shares_of_the_map() -> None:
    maps = torch.zeros(3, 14, 14)
    maps[0, :2, :4] = 1  # two cells, the same in both
    maps[1] = 0.3
    found = places(maps).view(3, 7, 7)
    assert found.sum(dim=(1, 2)).tolist() == pytest.approx([1, 1, 1])
    assert found[0, 0, 0] > 10 * found[0, 3, 3]
    assert found[1:].flatten().tolist() == pytest.approx([1 / 49] * 98)  # flat, and empty


def test_equal_values_are_all_marked_so_the_order_of_pixels_does_not_matter() -> None:
    maps = torch.zeros(1, 10, 10)
    maps[0, 0] = 1  # ten of a hundred pixels
    assert marked_pixels(maps).sum() == 10
    assert marked_pixels(torch.full((1, 8, 8), 0.3)).all()


def test_pictures_of_other_channels_are_looked_at_in_grey() -> None:
    generator = torch.Generator().manual_seed(0)
    for channels in (1, 4):
        images = torch.rand(2, channels, 8, 8, generator=generator)
        grey = images.mean(dim=1, keepdim=True).repeat(1, 3, 1, 1)
        assert torch.allclose(looks(images), looks(grey))


def rows_of(classes: np.ndarray, chance: np.random.Generator) -> list[dict]:
    """Return rows in which the maps of class 1 mark one place, and those of class 2 what is red.

    The pictures of class 3 are all red, wherever a map lies.
    """
    shares = chance.uniform(size=(len(classes), 49))
    shares[classes == 1] += 3 * chance.uniform(size=49)
    seen = chance.uniform(size=(len(classes), 7, 49)) * np.array([1] * 6 + [0.01])[:, None]
    for i in np.flatnonzero(classes == 2):
        shares[i, :3] += 5
        seen[i, 0, :3] += 5
    seen[classes == 3, 0] += 5
    shares /= shares.sum(axis=1, keepdims=True)
    return [
        {"key": f"{i:03d}", "label": int(c), "predicted": int(c), "target": int(c)}
        | {"place": place.tolist(), "look": look.ravel().tolist()}
        for i, (c, place, look) in enumerate(zip(classes, shares, seen, strict=True))
    ]


def likeness(vectors: np.ndarray, classes: np.ndarray, i: int) -> float:
    """The mean product with others of the class, less that with the other classes."""
    own = [vectors[i] @ vectors[j] for j in np.flatnonzero(classes == classes[i]) if j != i]
    others = [vectors[i] @ vectors[j] for j in np.flatnonzero(classes != classes[i])]
    return float(np.mean(own) - np.mean(others))


def compared(rows: list[dict], classes: np.ndarray) -> dict[str, list[float]]:
    """Return place_alike and look_alike of each row, image by image."""
    shares = np.array([row["place"] for row in rows])
    seen = np.array([row["look"] for row in rows])
    seen = ((seen - seen.mean(axis=0)) / seen.std(axis=0)).reshape(-1, 7, 49)
    centred = shares - shares.mean(axis=1, keepdims=True)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    marked = (seen * shares[:, None]).reshape(len(rows), -1)
    marked /= np.linalg.norm(marked, axis=1, keepdims=True)
    expected = np.zeros_like(marked)
    for i, own in enumerate(classes):
        other = shares[classes != own]
        # The length is the root of the mean square length under each of the other maps.
        length = np.sqrt(np.mean([((seen[i] * m) ** 2).sum() for m in other]))
        expected[i] = (seen[i] * other.mean(axis=0)).ravel() / length
    return {
        "place_alike": [likeness(centred, classes, i) for i in range(len(rows))],
        "look_alike": [
            likeness(marked, classes, i) - likeness(expected, classes, i) for i in range(len(rows))
        ],
    }


def test_likeness_in_sql_is_that_of_all_pairs(tmp_path: Path) -> None:
    chance, lake = np.random.default_rng(1), Lake(tmp_path)
    classes = np.repeat([0, 1, 2, 3, 4], [9, 7, 8, 8, 4])  # the last has too few
    rows = rows_of(classes, chance)
    for shard, part in (("test-000000", rows[:11]), ("test-000001", rows[11:])):
        path = scores_file("marked", "d", "net", "gradcam", shard)
        lake.write_parquet(path, part, schema_of("marked"), "x")
    asked = "SELECT key, metric, value FROM metric_values WHERE explainer = 'gradcam' ORDER BY key"
    values = {(r["key"], r["metric"]): r["value"] for r in run_query(lake, asked).to_pylist()}
    for metric, expected in compared(rows, classes).items():
        for i in range(32):
            assert values[f"{i:03d}", metric] == pytest.approx(expected[i], abs=1e-5)
    assert len(values) == 2 * 32  # and none of the class with four images
    place, look = (
        [
            np.mean([values[f"{i:03d}", metric] for i in range(32) if classes[i] == c])
            for c in range(4)
        ]
        for metric in ("place_alike", "look_alike")
    )
    assert min(place[1], place[2]) > 0.5 > max(place[0], place[3])
    assert np.argmax(look) == 2  # not class 3, whose pictures look alike everywhere
    assert look[3] < 0.1 < look[2]


def test_one_class_alone_has_no_value(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    rows = rows_of(np.zeros(8, int), np.random.default_rng(0))
    path = scores_file("marked", "d", "net", "gradcam", "test-000000")
    lake.write_parquet(path, rows, schema_of("marked"), "x")
    asked = "SELECT count(*) AS n FROM metric_values WHERE explainer = 'gradcam'"
    assert run_query(lake, asked).to_pylist() == [{"n": 0}]
