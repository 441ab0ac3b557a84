"""Whole pictures, changed and asked for again, with classifiers that read what a change leaves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny import PLAIN
from torch import Tensor, nn

from ttame_core.backbones import Backbone
from ttame_core.backbones.preprocessing import USUAL
from ttame_core.errors import UserError
from ttame_core.metrics.base import Row
from ttame_core.perturbation.whole import CHANGES
from ttame_core.stages.changing import change, normalise_otherwise


class Level(nn.Module):
    """Class 2 where pictures are brighter than 0.5 on average, else class 0."""

    def forward(self, x: Tensor) -> Tensor:
        level = 20 * (x.mean(dim=(1, 2, 3)) / 4)  # −10 to 10
        return torch.stack([-level, torch.full_like(level, -50.0), level], dim=1)


class Blocks(nn.Module):
    """Class 1 where the values hardly change within the 8 × 8 blocks of JPEG, else class 0."""

    def forward(self, x: Tensor) -> Tensor:
        inside = (x[..., 1:] - x[..., :-1]).abs().mean(dim=(1, 2))
        flat = inside[:, [i for i in range(63) if i % 8 != 7]].mean(dim=1)
        return torch.stack([torch.zeros_like(flat), 100 * (0.1 - flat)], dim=1)


def rows_of(net: nn.Module, images: Tensor) -> list[Row]:
    by_key = {f"k{number}": image for number, image in enumerate(images)}
    return list(change(by_key, Backbone(net, "net", PLAIN, taps=[]), batch_size=2))


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_gives_pictures(name: str) -> None:
    images = torch.rand(2, 3, 160, 200, generator=torch.Generator().manual_seed(0))
    changed = CHANGES[name].make(images.clone())
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert 0.01 < (changed - images).abs().mean() < 0.3
    assert torch.equal(changed, CHANGES[name].make(images))  # the same each time
    torch.testing.assert_close(changed[1:], CHANGES[name].make(images[1:]))  # each on its own


def test_light_by_hand() -> None:
    image = torch.tensor([0.5, 0.4, 0.9]).view(1, 3, 1, 1)
    made = {name: CHANGES[name].make(image).flatten().tolist() for name in ("warm", "cold", "dark")}
    assert made["warm"] == pytest.approx([0.7, 0.4, 0.54])
    assert made["cold"] == pytest.approx([0.3, 0.4, 1.0])
    assert made["dark"] == pytest.approx([0.3, 0.24, 0.54])


def test_rows_are_of_the_class_that_gains_most_and_of_pictures_of_others() -> None:
    levels = torch.tensor([0.4, 0.8, 0.45])  # the second is taken for class 2 already
    rows = rows_of(Level(), levels.view(3, 1, 1, 1).expand(3, 3, 16, 16))
    bright = [row for row in rows if row["source"] == "bright"]
    assert [(row["target"], row["key"], row["aspect"]) for row in bright] == [
        (2, "k0", "whole"),
        (2, "k2", "whole"),
    ]

    def answer(value: float) -> float:
        return float(torch.tensor([-(20 * value - 10), 20 * value - 10]).softmax(0)[1])

    assert bright[0]["before"] == pytest.approx(answer(0.4), abs=1e-5)
    assert bright[0]["after"] == pytest.approx(answer(0.4**0.6), abs=1e-5)
    (dark,) = [row for row in rows if row["source"] == "dark"]
    assert (dark["target"], dark["key"]) == (0, "k1")  # the only one that is not of class 0


@pytest.mark.parametrize("given", ["rgb", "bgr"])
def test_a_wrong_order_of_channels_shows_in_the_labels(given: str) -> None:
    """The network takes a picture for class 1 where its first channel is the largest."""

    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            red, _, blue = x.mean(dim=(2, 3)).T
            return torch.stack([20 * blue, 20 * red], dim=1)

    preprocessing = replace(PLAIN, channel_order=given)
    net = Backbone(First(), "net", preprocessing, taps=[])
    chance = torch.Generator().manual_seed(0)
    images = {f"k{number}": torch.rand(3, 1, 1, generator=chance) for number in range(5)}
    labels = {key: int(image[0] > image[2]) for key, image in images.items() if key != "k4"}
    rows = list(normalise_otherwise(images, labels, net, batch_size=3))
    by_way: dict[str, list[Row]] = {}
    for row in rows:
        by_way.setdefault(row["source"], []).append(row)
    assert by_way.keys() == USUAL.keys()  # PLAIN is none of them
    for way, own in by_way.items():
        assert [row["key"] for row in own] == ["k0", "k1", "k2", "k3"]  # k4 has no label
        for row in own:
            red, _, blue = images[row["key"]].flatten().tolist()
            assert (row["target"], row["aspect"]) == (int(red > blue), "normalised")
            sign = 1 if given == "rgb" else -1
            scale = 20 / 0.25  # PLAIN's deviation
            right = 1 / (1 + math.exp(-sign * scale * abs(red - blue)))
            assert row["before"] == pytest.approx(right, abs=1e-6)
            assert row["right_before"] == (right > 0.5)
            if way == "swapped":
                assert row["after"] == pytest.approx(1 - right, abs=1e-6)
                assert row["right_after"] == (right < 0.5)
    assert list(normalise_otherwise(images, {}, net, batch_size=3)) == []


def test_traces_of_jpeg_are_found() -> None:
    images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.3
    rows = rows_of(Blocks(), images)
    rise = {
        name: sum(row["after"] - row["before"] for row in rows if row["source"] == name) / 6
        for name in CHANGES
    }
    assert max(rise, key=lambda name: rise[name]) == "jpeg"
    assert rise["jpeg"] > 0.3


def test_grey_pictures_have_no_colours_to_change() -> None:
    rows = rows_of(Level(), torch.full((2, 1, 16, 16), 0.3))
    assert {row["source"] for row in rows} == {"dark", "bright", "blur", "noise"}


def test_answers_that_are_not_finite_are_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3)).log()  # of negative numbers

    with pytest.raises(UserError, match="backbone net gives logits that are not finite"):
        rows_of(Broken(), torch.zeros(2, 3, 16, 16))
