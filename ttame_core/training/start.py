"""The start of a training: what gradients make of a head, and what suits the classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.taps import tap_outputs
from ttame_core.explainers import Trained
from ttame_core.explainers.gradients import target_gradients
from ttame_core.heads.attention import Head, SharedHead
from ttame_core.metrics import drop, masked_probabilities
from ttame_core.metrics.probe import Probe
from ttame_core.perturbation.masking import min_max
from ttame_core.training.orders import first_images

START_IMAGES = 192
LIKELIEST = 2  # classes of each image, the most probable ones, whose gradients are looked at
IN_TURN = 8  # further classes of each image: all of the classifier's take their turn
RIDGE = 0.1  # of the mean square length of the class vectors
# Standard deviations of a channel: branches start near the identity, and ReLU cuts nothing.
BRANCH_SCALE, BRANCH_SHIFT = 0.1, 3.0
PROBES = 64  # images on which a classifier is tried
PROBE_KEEP = 50.0  # percent of the pixels
READS_OCCLUDED = 80.0  # percent: a classifier that loses less of its confidence reads such images
MAP_DEVIATION = 2.0  # of class maps at the start: their sigmoid is between 0.02 and 0.98


def begin(
    explainer: Trained, settings: spec.Training, images: Callable[[], Iterable[Tensor]]
) -> tuple[spec.Training, Head | None]:
    """Decide how a head is trained, and make what it starts from.

    Args:
        explainer: explainer that the head belongs to.
        settings: section `training` of a spec. The recipe `tuned` is replaced by `whole` or
            `occluded`, whichever suits the classifier.
        images: function that returns the batches (B, 3, H, W) in [0, 1] of an epoch, the same at
            each call.

    Returns:
        The settings to train with, and the head to start from; None where the head starts with
        random weights.
    """
    backbone = explainer.backbone
    if settings.recipe == "tuned":
        average_drop = _average_drop(backbone, images, settings.seed)
        settings = settings.decided(reads_occluded=average_drop < READS_OCCLUDED)
    if settings.fusion == "rows":
        return settings, None
    with torch.random.fork_rng(devices=[]):  # heads begin on the CPU
        torch.random.default_generator.manual_seed(settings.seed)
        head = explainer.new_head(settings.map, settings.fusion)
    if not isinstance(head, SharedHead):
        return settings, head
    start_from_gradients(head, backbone, images, settings.labels == "permuted")
    return settings, head


@torch.no_grad()
def _average_drop(backbone: Backbone, images: Callable[[], Iterable[Tensor]], seed: int) -> float:
    """Return the average drop of maps of uniform noise, half of the pixels kept (PROBE_KEEP).

    It tells how well the classifier copes with black pixels.

    Args:
        backbone: the classifier.
        images: function that returns batches (B, 3, H, W) in [0, 1]; the first few images are used.
        seed: seed of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    drops: list[Tensor] = []
    for batch in first_images(PROBES, images()):
        maps = torch.rand(len(batch), *backbone.map_size, generator=generator).to(batch.device)
        p, truth = backbone.probabilities(backbone(backbone.normalise(batch))).max(dim=1)
        probe = Probe(backbone, batch, truth, len(batch))
        drops.append(drop(p, masked_probabilities(probe, min_max(maps), [PROBE_KEEP])[:, 0]))
    return float(torch.cat(drops).mean())


def start_from_gradients(
    head: SharedHead,
    backbone: Backbone,
    images: Callable[[], Iterable[Tensor]],
    permuted: bool = False,
) -> None:
    """Set the weights of a head that is not trained yet, from the classifier's gradients.

    The weight of class k on a tap's channels is, as in Grad-CAM, the mean over places of the
    gradient of its logit. Ridge regression of these means on the class vectors gives the head's
    matrix P. A logit has gradients on any image, so that classes take part which none of the images
    shows. Branches start near the identity, and
    class maps have the standard deviation MAP_DEVIATION and the mean 0.

    Args:
        head: the head, on the backbone's device.
        backbone: classifier whose features the head reads.
        images: function that returns batches (B, 3, H, W) in [0, 1], the same at each call; the
            first START_IMAGES images are used. There must be at least two.
        permuted: whether each image's gradients are paired with the classes of the image before,
            for a head that is trained on permuted labels.
    """
    classes, gradients, deviations = _mean_gradients(backbone, first_images(START_IMAGES, images()))
    vectors = head.vectors(classes.roll(1, dims=0).flatten() if permuted else classes.flatten())
    matrix = _ridge(vectors, gradients.flatten(0, 1))
    bn: Any
    with torch.no_grad():
        for bn, deviation in zip(head.bns, deviations, strict=True):
            bn.weight.copy_(BRANCH_SCALE * deviation)
            bn.bias.copy_(BRANCH_SHIFT * deviation)
        norms: list[Any] = [*head.bns, *head.norms]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all batches
        head.train()
        for batch in first_images(START_IMAGES, images()):
            logits, features = backbone.features(backbone.normalise(batch))
            head(features, logits.argmax(dim=1))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        scale = torch.cat(
            [norm.running_var.add(norm.eps).sqrt() for norm in norms[len(head.bns) :]]
        )
        head.matrix.copy_(matrix * scale)
        maps = head(features, logits.argmax(dim=1)).float()
        factor = MAP_DEVIATION / maps.std().clamp(min=torch.finfo(maps.dtype).tiny)
        head.matrix.mul_(factor)
        head.bias.sub_(maps.mean() * factor)


def _mean_gradients(
    backbone: Backbone, batches: Iterable[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the gradients of some classes of N images.

    Of each image these are the LIKELIEST most probable classes, and the next IN_TURN of all
    classes: the first image has classes 0 to IN_TURN - 1, and after the last class comes the first.

    Returns:
        Classes (N, T) int64; gradients (N, T, ΣC) of their logits with respect to the taps'
        channels, means over places; and the standard deviation (C) of each tap's channels.
    """
    images, classes, gradients, moments = 0, [], [], []
    for batch in batches:
        inputs = backbone.normalise(batch).requires_grad_()
        with torch.enable_grad():
            logits, outputs = tap_outputs(backbone.model, backbone.taps, inputs)
        features = [t.feature_map(x.detach()) for t, x in zip(backbone.taps, outputs, strict=True)]
        looked_at = torch.cat([_likeliest(logits), _in_turn(logits, images)], dim=1)
        images += len(batch)
        means = []
        for slopes in target_gradients(logits, looked_at, outputs, unused=True):
            by_tap = zip(backbone.taps, slopes, strict=True)
            maps = [tap.feature_map(slope).float() for tap, slope in by_tap]
            means.append(torch.cat([m.mean(dim=(2, 3)) for m in maps], dim=1))
        classes.append(looked_at)
        gradients.append(torch.stack(means, dim=1))
        flat = [x.float().transpose(0, 1).flatten(1) for x in features]
        moments.append([torch.stack([x.mean(dim=1), x.square().mean(dim=1)]) for x in flat])
    deviations = []
    for tap in zip(*moments, strict=True):
        mean, square = torch.stack(tap).mean(dim=0)
        deviations.append((square - mean.square()).clamp(min=0).sqrt())
    return torch.cat(classes), torch.cat(gradients), deviations


def _likeliest(logits: Tensor) -> Tensor:
    return logits.topk(min(LIKELIEST, logits.shape[1]), dim=1).indices


def _in_turn(logits: Tensor, before: int) -> Tensor:
    """Return the classes whose turn it is, for a batch that comes after a number of images."""
    number, classes = logits.shape
    turns = min(IN_TURN, classes)
    first = torch.arange(before, before + number, device=logits.device) * turns
    return (first[:, None] + torch.arange(turns, device=logits.device)) % classes


def _ridge(vectors: Tensor, gradients: Tensor) -> Tensor:
    """Return the weights (D, C) of a ridge regression of gradients on class vectors.

    Args:
        vectors: (N, D); the last of the D numbers is the same for all classes. Its weights make up
            for the mean of the gradients and are not penalised.
        gradients: (N, C).
    """
    mean = gradients.mean(dim=0)
    own = vectors[:, :-1]
    kernel = own @ own.T
    penalty = RIDGE * kernel.diagonal().mean() * torch.eye(len(own), device=own.device)
    weights: Any = own.T @ torch.linalg.solve(kernel + penalty, gradients - mean)
    return torch.cat([weights, mean[None] / vectors[0, -1]])
