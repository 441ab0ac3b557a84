"""Linear imputation against the grad-cam library's, and ROAD by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from tiny import tiny_backbone
from torch.nn import functional as F

from ttame_core.metrics.probe import Probe
from ttame_core.metrics.road import imputed_probabilities, keyed_noise
from ttame_core.perturbation.imputation import impute
from ttame_core.perturbation.imputation.sparse import impute_together
from ttame_core.perturbation.masking import ranks

Impute = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
SIZES = ((1, 7), (5, 9), (13, 8), (33, 64), (96, 80))
CORNER_LEFT = """
import torch
from ttame_core.perturbation.imputation import impute
torch.manual_seed(0)
images, removed = torch.rand(1, 3, 512, 512), torch.ones(1, 512, 512, dtype=torch.bool)
removed[0, 0, 0] = False
print(float((impute(images, removed) - images[:, :, :1, :1]).abs().max()))
"""
on_any_device = pytest.mark.parametrize("impute", [impute, impute_together])


def _by_library(images: torch.Tensor, removed: torch.Tensor) -> torch.Tensor:
    solver = NoisyLinearImputer(noise=0)
    return torch.stack(
        [solver(image, (~hole).float()) for image, hole in zip(images, removed, strict=True)]
    )


def _maps(kind: str, count: int, size: tuple[int, int]) -> torch.Tensor:
    if kind == "scattered":
        return torch.rand(count, *size)
    return F.interpolate(torch.rand(count, 1, 7, 7), size, mode="bilinear")[:, 0]


@on_any_device
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["scattered", "smooth"])
def test_the_librarys_solution(impute: Impute, size: tuple[int, int], kind: str) -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, *size)
    counts = (torch.tensor([0.1, 0.5, 0.9]) * size[0] * size[1]).int()
    removed = ranks(_maps(kind, 3, size)) < counts[:, None, None]
    assert (impute(images, removed) - _by_library(images, removed)).abs().max() < 1e-3


@on_any_device
@pytest.mark.parametrize("side", [65, 97, 130])
def test_sides_that_do_not_halve_evenly(impute: Impute, side: int) -> None:
    torch.manual_seed(side)
    images = (torch.rand(8, 3, 8, 8) > 0.5).float()
    images = F.interpolate(images, (side, side), mode="bilinear")
    maps = F.interpolate(torch.rand(8, 1, 4, 4), (side, side), mode="bilinear")[:, 0]
    removed = ranks(maps) < 97 * side * side // 100
    assert (impute(images, removed) - _by_library(images, removed)).abs().max() < 1e-3


def _holes(height: int, width: int) -> dict[str, torch.Tensor]:
    y, x = torch.arange(height)[:, None], torch.arange(width)
    return {
        "noise": torch.rand(height, width) < 0.8,
        "one hole": ((y - 20).abs() < 4) & ((x - 20).abs() < 4),
        "a corner": (y < 7) & (x < 7),
        "pairs": (x // 2 % 3 == 1) & (y % 3 == 1),
        "narrow strips": (x % 10 < 9).expand(height, width),
        "wide strips": (x % 16 < 15).expand(height, width),
        "diagonal strips": (x + y) % 11 < 9,
        "squares": (x % 13 < 12) & (y % 13 < 12),
        "single pixels left": ~((x % 4 == 3) & (y % 4 == 3)),
        "few pixels left": ~((x % 13 == 12) & (y % 13 == 12)),
    }


@on_any_device
@pytest.mark.parametrize("size", [(64, 48), (97, 65)])
def test_holes_and_images_of_every_shape(impute: Impute, size: tuple[int, int]) -> None:
    """Holes that are solved either way, and images that deviate as far from grey as they can."""
    torch.manual_seed(0)
    height, width = size
    y, x = torch.arange(height)[:, None], torch.arange(width)
    drawn = [x < width // 2, (x + y) % 2 == 0, x // 8 % 2 == 0, torch.rand(size) < 0.5]
    patterns = [pattern.expand(size).float() for pattern in drawn]
    images = torch.stack(patterns)[:, None].expand(-1, 3, -1, -1)
    for name, hole in _holes(*size).items():
        removed = hole.expand(len(images), -1, -1).contiguous()
        error = (impute(images, removed) - _by_library(images, removed)).abs().max()
        assert error < 1e-3, name


@on_any_device
def test_the_middle_and_a_corner_by_hand(impute: Impute) -> None:
    images = torch.arange(9.0).view(1, 1, 3, 3).expand(1, 3, 3, 3) / 10
    middle = torch.zeros(1, 3, 3, dtype=torch.bool)
    middle[0, 1, 1] = True
    assert torch.allclose(impute(images, middle)[0, :, 1, 1], torch.tensor(0.4), atol=1e-3)
    corner = torch.zeros(1, 3, 3, dtype=torch.bool)
    corner[0, 0, 0] = True
    expected = (0.1 / 6 + 0.3 / 6 + 0.4 / 12) / (5 / 12)
    assert torch.allclose(impute(images, corner)[0, :, 0, 0], torch.tensor(expected), atol=1e-3)


@on_any_device
def test_nothing_and_everything_removed(impute: Impute) -> None:
    images = torch.rand(2, 3, 20, 30)
    nothing = torch.zeros(2, 20, 30, dtype=torch.bool)
    assert torch.equal(impute(images, nothing), images)
    both = torch.stack([nothing[0], ~nothing[0]])
    found = impute(images, both)
    assert torch.equal(found[0], images[0])
    assert torch.equal(found[1], torch.full_like(found[1], 0.5))


@on_any_device
def test_grey_stays_grey(impute: Impute) -> None:
    torch.manual_seed(0)
    images, removed = torch.full((1, 3, 40, 50), 0.5), torch.ones(1, 40, 50, dtype=torch.bool)
    images[:, 0] = torch.rand(40, 50)  # what one colour needs, the others must bear
    removed[:, ::9, ::9] = False
    found = impute(images, removed)
    assert torch.equal(found[:, 1:], images[:, 1:])
    assert (found - _by_library(images, removed)).abs().max() < 1e-3


@on_any_device
@pytest.mark.parametrize("size", [(40, 30), (224, 224)])
@pytest.mark.parametrize("seed", range(3))
def test_one_pixel_left_colours_the_image(impute: Impute, seed: int, size: tuple[int, int]) -> None:
    torch.manual_seed(seed)
    images, removed = torch.rand(1, 3, *size), torch.ones(1, *size, dtype=torch.bool)
    removed[0, seed * 13, seed * 9] = False
    colour = images[:, :, seed * 13, seed * 9, None, None]
    assert (impute(images, removed) - colour).abs().max() < 1e-3


@on_any_device
@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(np.float32, (2, 3, 9, 12), elements=st.floats(0, 1, width=32)),
    hnp.arrays(np.bool_, (2, 9, 12)),
)
def test_known_pixels_stay_and_bound_the_others(
    impute: Impute, array: np.ndarray, holes: np.ndarray
) -> None:
    images, removed = torch.from_numpy(array), torch.from_numpy(holes)
    found = impute(images, removed)
    for image, hole, result in zip(images, removed, found, strict=True):
        assert torch.equal(result[:, ~hole], image[:, ~hole])
        if not hole.all():
            known = image[:, ~hole]
            low, high = known.amin(dim=1)[:, None], known.amax(dim=1)[:, None]
            assert (result[:, hole] >= low - 1e-3).all()
            assert (result[:, hole] <= high + 1e-3).all()
    alone = torch.cat([impute(images[i : i + 1], removed[i : i + 1]) for i in (1, 0)])
    assert (alone.flip(0) - found).abs().max() < 1e-3


@on_any_device
def test_what_was_removed_is_not_looked_at(impute: Impute) -> None:
    torch.manual_seed(1)
    images, removed = torch.rand(1, 3, 32, 32), torch.rand(1, 32, 32) < 0.5
    others = torch.where(removed[:, None], torch.rand_like(images), images)
    assert torch.equal(impute(images, removed), impute(others, removed))


def test_noise_belongs_to_the_key() -> None:
    one, other = keyed_noise(["a", "b"], (3, 8, 9), 0.1)
    assert torch.equal(other, keyed_noise(["b"], (3, 8, 9), 0.1)[0])
    assert not torch.equal(one, other)
    assert 0.05 < one.std() < 0.15


def test_road_one_variant_at_a_time() -> None:
    backbone = tiny_backbone()
    torch.manual_seed(2)
    images, maps = torch.rand(2, 3, 64, 64), torch.rand(2, 64, 64)
    percentages, noise = (10.0, 50.0, 90.0), keyed_noise(["x", "y"], (3, 64, 64), 0.05)
    with torch.no_grad():
        targets = backbone(backbone.normalise(images)).argmax(dim=1)
    found, kept = imputed_probabilities(
        Probe(backbone, images, targets, 5), ranks(maps), percentages, noise
    )
    for i, (image, heat) in enumerate(zip(images, maps, strict=True)):
        for v, percentage in enumerate(percentages):
            count = round(64 * 64 * percentage / 100)
            order = heat.flatten().argsort(descending=True)
            for o, places in enumerate([order[:count], order[64 * 64 - count :]]):
                removed = torch.zeros(64 * 64, dtype=torch.bool).index_fill_(0, places, True)
                removed = removed.view(1, 64, 64)
                filled = _by_library(image[None], removed) + noise[i] * removed
                with torch.no_grad():
                    logits = backbone.model((filled - 0.5) / 0.25)[0]
                p = logits.softmax(dim=0)[targets[i]]
                assert torch.isclose(found[i, o, v], p, atol=1e-3)
                best = logits.topk(2)
                if best.values[0] - best.values[1] > 1e-2:
                    assert kept[i, o, v] == (best.indices[0] == targets[i])


def test_it_is_compiled_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    spec = find_spec("ttame_core.perturbation.imputation.compiled")
    compiled = module_from_spec(spec)
    spec.loader.exec_module(compiled)
    assert compiled._blur_inside(1, 2) == 0.75


@pytest.mark.long
def test_code_that_was_kept_finds_what_code_just_compiled_finds(tmp_path: Path) -> None:
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", CORNER_LEFT]
    compiled, kept = (subprocess.check_output(command, env=env) for _ in range(2))
    assert compiled == kept
    assert float(compiled) < 1e-3
    assert list(tmp_path.rglob("*.nbc"))
