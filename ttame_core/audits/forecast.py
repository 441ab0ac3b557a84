"""What an audit will take: images, passes, time and disk, from a few timed batches of noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.devices import place
from ttame_core.data.loader import Batch
from ttame_core.errors import UserError
from ttame_core.explainers import (
    REGISTRY,
    Cost,
    Explainer,
    NotApplicable,
    Trained,
    forward_pass,
    measure,
    training_of,
)
from ttame_core.metrics import REGISTRY as FAMILIES
from ttame_core.metrics import MappedImages
from ttame_core.perturbation.masking import min_max
from ttame_core.stages.provenance import given_head
from ttame_core.training.first_pass import first_pass, fits, is_repeated
from ttame_core.training.head import training_losses, with_enough_epochs

BATCH = 8  # images of a timed batch, at most
PATIENCE = 2.0  # seconds that one image may take where a whole batch is still timed
FEW = 32  # of a method's masks, steps or samples are timed; the others take as long
ROW = 200  # bytes of a row of a Parquet file beside its map, roughly
BYTES = {"float16": 2, "uint8": 1}

Names = tuple[str, str, str]  # stage, backbone, explainer


@dataclass(frozen=True)
class Effort:
    """What a part of an audit takes, if nothing of it is there.

    Attributes:
        images: images that are explained, scored or trained on, each as often as it is.
        forward: images that pass the classifier.
        backward: images whose gradients pass back through it.
        seconds: time on this machine, one unit after another.
        bytes: size of the files.
    """

    images: int = 0
    forward: float = 0
    backward: float = 0
    seconds: float = 0
    bytes: float = 0

    def times(self, share: float) -> Effort:
        """Return a share of the effort."""
        images, *others = (share * value for value in astuple(self))
        return Effort(round(images), *others)

    def plus(self, other: Effort) -> Effort:
        """Return this effort and another."""
        return Effort(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def forecast(
    audit: spec.AuditSpec, settings: spec.Backbone, backbone: Backbone, images: Mapping[str, int]
) -> dict[Names, Effort]:
    """Time a few batches of noise on a classifier, and say what the audit of it will take.

    Args:
        audit: the spec.
        settings: the backbone's section.
        backbone: the classifier, on the CPU; it is moved to the audit's device.
        images: number of the data set's images by split.

    Returns:
        The effort by stage, backbone and explainer; explainers that do not apply have none.
    """
    timed = _Timed(audit, place(backbone, audit.compute), images)
    efforts: dict[Names, Effort] = {}
    if settings.fit is not None:
        efforts["fit", settings.name, ""] = timed.fit(settings.fit)
    for section in audit.explainers:
        try:
            for stage, effort in timed.explainer(settings, section):
                efforts[stage, settings.name, section.name] = effort
        except (NotApplicable, UserError):
            continue
    return efforts


class _Timed:
    """Timed batches of one classifier."""

    def __init__(
        self, audit: spec.AuditSpec, backbone: Backbone, images: Mapping[str, int]
    ) -> None:
        self.audit, self.backbone, self.images = audit, backbone, images
        self.wanted = min(audit.maps.images or 10**18, images.get(audit.maps.split, 0))
        size = backbone.preprocessing.shape
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(min(BATCH, audit.compute.batch_size), *size, generator=generator)
        self.noise = noise.to(backbone.device)
        targets = audit.maps.targets
        if isinstance(targets, list):
            self.targets = len(targets)
        else:
            self.targets = int(targets.removeprefix("top-")) if "top-" in targets else 1

    def batch(self, count: int) -> Batch:
        """Return so many images of noise, without annotations."""
        return Batch.bare([str(number) for number in range(count)], self.noise[:count])

    def fit(self, fit: spec.Fit) -> Effort:
        """Return the effort of training the classifier: a pass forward and back for each image."""
        images = fit.epochs * (self.images.get("train", 0) // fit.batch_size) * fit.batch_size
        inputs = self.backbone.normalise(self.noise).requires_grad_()
        with measure(self.backbone) as cost, torch.enable_grad():
            self.backbone(inputs).sum().backward()
        return _scaled(cost, len(inputs), images, self._weights)

    @property
    def _weights(self) -> int:
        return 2 * sum(weight.numel() for weight in self.backbone.parameters())

    def explainer(
        self, settings: spec.Backbone, section: spec.Explainer
    ) -> Iterator[tuple[str, Effort]]:
        """Yield the stages of one explainer, each with its effort."""
        method, own, share = REGISTRY[section.method], section.settings, 1.0
        passes = own.get(method.forwards)  # where the formula is a setting, such as `masks`
        if isinstance(passes, int) and passes > FEW:
            own, share = {**own, method.forwards: FEW}, passes / FEW
        explainer = method(self.backbone, own)
        if isinstance(explainer, Trained):
            training = training_of(self.audit.training, section)
            head = explainer.new_head(training.map, training.fusion)
            if not given_head(settings, section):
                yield "train", self._training(explainer, head, training)
            explainer.use(head)
        images = min(section.images or 10**18, self.wanted)
        maps, shared, own_cost = self._maps(explainer)
        cost = Cost(
            shared.seconds + share * own_cost.seconds,
            shared.forward + round(share * own_cost.forward),
            shared.backward + round(share * own_cost.backward),
        )
        size = maps.shape[-2] * maps.shape[-1] * BYTES[self.audit.maps.dtype]
        rows = images * self.targets
        yield "explain", _scaled(cost, len(maps), images, rows * (size + 2 * ROW))
        yield "evaluate", self._scores(explainer, maps, images)

    def _training(self, explainer: Trained, head: Any, settings: spec.Training) -> Effort:
        shards = [("train", self.images.get("train", 0))]
        settings, batches = with_enough_epochs(settings, shards)
        images = settings.epochs * batches * settings.batch_size
        some = self.noise[: max(2, min(len(self.noise), settings.batch_size))]
        with measure(self.backbone) as first:
            whole = first_pass(explainer, some)
        with measure(self.backbone) as later:
            training_losses(explainer, head, whole, settings).loss.backward()
        looked_at, different = images, self.images.get("train", 0)
        repeated = is_repeated(self.backbone, settings, self.audit.compute.devices)
        if repeated and fits(whole, different, settings.keep_gib):
            looked_at = different
        folded = sum(weight.numel() for weight in head.parameters())
        passes = replace(_scaled(first, len(some), looked_at, 0), images=0)
        return passes.plus(_scaled(later, len(some), images, 4 * folded))

    def _maps(self, explainer: Explainer) -> tuple[torch.Tensor, Cost, Cost]:
        """Return maps (B, T, h, w) of noise, and what the pass and the maps cost.

        B is 1 for slow explainers.
        """
        count = 1
        while True:
            with measure(self.backbone) as shared:
                forward = forward_pass(self.backbone, self.batch(count))
            targets = forward.logits.topk(self.targets, dim=1).indices
            with measure(self.backbone) as own:
                maps = min_max(explainer.attribute(forward, targets))
            if count == len(self.noise) or own.seconds > PATIENCE:
                return maps, shared, own
            count = len(self.noise)

    def _scores(self, explainer: Explainer, maps: torch.Tensor, images: int) -> Effort:
        """Return the effort of scoring an explainer's maps by all families of the audit."""
        batch = self.batch(len(maps))
        forward = forward_pass(self.backbone, batch)
        likely = self.backbone.probabilities(forward.logits)
        rows = [
            {
                "key": key,
                "label": None,
                "predicted": int(chances.argmax()),
                "target": int(chances.argmax()),
                "probability": float(chances.max()),
                "height": maps.shape[-2],
                "width": maps.shape[-1],
                "dtype": self.audit.maps.dtype,
            }
            for key, chances in zip(batch.keys, likely, strict=True)
        ]
        mapped = MappedImages(
            rows,
            torch.arange(len(rows)),
            maps[:, 0].nan_to_num(),
            batch,
            forward.images,
            self.backbone,
            self.audit.compute.batch_size,
            lambda model: explainer,
        )
        whole = Effort()
        for metric in self.audit.evaluation.metrics:
            with measure(self.backbone) as cost:
                made = FAMILIES[metric.family](metric.settings).score(mapped)
            scored = min(metric.images or 10**18, images)
            size = ROW * scored * self.targets * max(1, len(made) / len(rows))
            whole = whole.plus(_scaled(cost, len(rows), scored, size))
        passes = self.targets * whole.forward, self.targets * whole.backward
        return Effort(images, *passes, self.targets * whole.seconds, whole.bytes)


def _scaled(cost: Cost, timed: int, images: int, size: float) -> Effort:
    """Return the effort for `images`, of which `timed` had this cost."""
    share = images / timed
    return Effort(images, share * cost.forward, share * cost.backward, share * cost.seconds, size)
