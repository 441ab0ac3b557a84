"""Heads before the first step: what gradients make of them."""

from __future__ import annotations

import pytest
import torch
from tiny import TINY_VIT, tiny_backbone
from torch.nn import functional as F

from ttame_core import spec
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.attention import SharedHead
from ttame_core.metrics import drop, masked_probabilities
from ttame_core.metrics.probe import Probe
from ttame_core.perturbation.masking import min_max
from ttame_core.training.start import (
    MAP_DEVIATION,
    _average_drop,
    _mean_gradients,
    begin,
    start_from_gradients,
)


def _started(model: str, permuted: bool = False, **arguments: object) -> tuple:
    backbone = tiny_backbone(model, **arguments)
    torch.manual_seed(1)
    colours = torch.rand(48, 3, 1, 1)
    images = colours * torch.rand(48, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    with torch.no_grad():  # random weights say the same of all images, but for small differences
        torch.nn.init.normal_(backbone.model.get_classifier().weight)
        logits = backbone(backbone.normalise(images))
        backbone.model.get_classifier().bias.sub_(logits.mean(dim=0))
    explainer = TTame(backbone)
    head = explainer.new_head(fusion="shared")
    assert isinstance(head, SharedHead)
    start_from_gradients(head, backbone, lambda: images.split(8), permuted)
    return explainer, head.eval(), images


@pytest.mark.parametrize("model", ["resnet10t", "vit_tiny_patch16_224"])
def test_class_maps_have_the_scale_that_attention_needs(model: str) -> None:
    arguments = TINY_VIT if model.startswith("vit") else {}
    explainer, head, images = _started(model, **arguments)
    with torch.no_grad():
        logits, features = explainer.backbone.features(explainer.backbone.normalise(images))
        maps = head(features, logits.argmax(dim=1))
    assert abs(maps.mean()) < 0.5 * MAP_DEVIATION
    assert 0.5 * MAP_DEVIATION < maps.std() < 1.5 * MAP_DEVIATION


def test_where_logits_are_linear_in_the_last_tap_its_part_is_cam() -> None:
    """ResNet: a global mean and a linear layer follow; Zhou et al.'s CAM is exact for any class."""
    explainer, head, images = _started("resnet10t")
    backbone = explainer.backbone
    with torch.no_grad():
        head.matrix[:, : sum(tap.channels for tap in explainer.taps[:-1])] = 0
        _, features = backbone.features(backbone.normalise(images))
        deep = features[-1]
        for target in range(backbone.num_classes):
            targets = torch.full((len(images),), target)
            cam = torch.einsum("bchw,c->bhw", deep, backbone.model.fc.weight[target])
            cam = F.interpolate(cam[:, None], head.map_size, mode="bilinear")
            both = torch.stack([head(features, targets).flatten(), cam.flatten()])
            assert torch.corrcoef(both)[0, 1] > 0.9, target


def test_gradients_are_those_of_likely_classes_and_of_all_in_turn() -> None:
    """The gradient of a logit's mean over places, class by class, and classes that nobody sees."""
    backbone = tiny_backbone(num_classes=21)
    images = torch.rand(6, 3, 64, 64)
    classes, gradients, _ = _mean_gradients(backbone, images.split(4))
    assert classes[:, 2:].flatten().tolist() == [k % 21 for k in range(6 * 8)]
    with torch.no_grad():
        logits = backbone(backbone.normalise(images))
    assert torch.equal(classes[:, :2], logits.topk(2, dim=1).indices)
    tap = backbone.taps[-1]  # a mean over places and a linear layer come after it
    cam = backbone.model.get_classifier().weight[classes].detach() / (tap.height * tap.width)
    torch.testing.assert_close(gradients[..., -tap.channels :], cam)


def test_few_classes_are_looked_at_once_each_image() -> None:
    classes, _, _ = _mean_gradients(tiny_backbone(num_classes=3), torch.rand(4, 3, 64, 64).split(2))
    assert classes[:, 2:].tolist() == [[0, 1, 2]] * 4


def test_permuted_labels_pair_gradients_with_others_classes() -> None:
    _, own, _ = _started("resnet10t")
    _, permuted, _ = _started("resnet10t", permuted=True)
    assert not torch.allclose(own.matrix, permuted.matrix, rtol=0.1)


def test_the_start_follows_from_the_images_alone() -> None:
    first, second = (_started("resnet10t")[1].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def _begun(monkeypatch: pytest.MonkeyPatch, average_drop: float, **given: object) -> tuple:
    explainer = TTame(tiny_backbone())
    images = torch.rand(12, 3, 64, 64)
    monkeypatch.setattr("ttame_core.training.start._average_drop", lambda *_: average_drop)
    return begin(explainer, spec.Training.model_validate(given), lambda: images.split(4))


def test_a_classifier_that_reads_occluded_pictures_has_the_recipe_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, head = _begun(monkeypatch, 10.0)
    assert (settings.recipe, settings.map, settings.noise) == ("occluded", "attention", 4.0)
    assert (settings.lambda_area, settings.fusion, head) == (4.0, "rows", None)


def test_another_has_the_recipe_for_whole_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, head = _begun(monkeypatch, 90.0)
    assert (settings.recipe, settings.map, settings.noise) == ("whole", "class", 0.0)
    assert isinstance(head, SharedHead)


@pytest.mark.parametrize(
    ("given", "recipe"),
    [({"recipe": "whole"}, "whole"), ({"noise": 0.0}, "whole"), ({"min_steps": 0}, "whole")],
)
def test_nothing_is_left_to_the_classifier_where_the_spec_says_it(
    monkeypatch: pytest.MonkeyPatch, given: dict, recipe: str
) -> None:
    settings, head = _begun(monkeypatch, 10.0, **given)
    assert (settings.recipe, settings.map, settings.fusion) == (recipe, "class", "shared")
    assert isinstance(head, SharedHead)


def test_the_published_recipe_needs_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, head = _begun(monkeypatch, 10.0, recipe="paper")
    assert (settings.recipe, settings.fusion, head) == ("paper", "rows", None)


def test_how_a_classifier_takes_to_masked_pictures_is_an_average_drop() -> None:
    """By the metric's own parts: uniform noise as maps, 50 % of the pixels kept."""
    backbone = tiny_backbone()
    images = torch.rand(70, 3, 64, 64)
    generator = torch.Generator().manual_seed(3)
    maps = torch.cat([torch.rand(n, *backbone.map_size, generator=generator) for n in (40, 24)])
    with torch.no_grad():
        p, truth = backbone(backbone.normalise(images[:64])).softmax(dim=1).max(dim=1)
    probe = Probe(backbone, images[:64], truth, 8)
    expected = drop(p, masked_probabilities(probe, min_max(maps), [50.0])[:, 0]).mean()
    measured = _average_drop(backbone, lambda: images.split(40), 3)
    assert measured == pytest.approx(float(expected), rel=1e-4)
