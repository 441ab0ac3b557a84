"""What every family of metrics is: one class that turns maps and their images into rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.data.loader import Batch
from ttame_core.explainers.base import Explainer, forward_pass
from ttame_core.lake.map_values import round_as_stored
from ttame_core.metrics.probe import Probe
from ttame_core.perturbation.masking import min_max, resize

Row = dict[str, Any]


@dataclass(frozen=True)
class MappedImages:
    """R maps of one explainer, and the images of one batch that they explain.

    Attributes:
        rows: what the lake says of each map (key, label, predicted, target, probability, …).
        positions: (R,) int64, of each map's image in the batch.
        maps: (R, h, w) float32 in [0, 1].
        batch: B images with what is known of them.
        batch_images: (B, 3, H, W) float32 in [0, 1], of the whole batch.
        backbone: the classifier that is explained.
        batch_size: images per forward pass.
        explainer: makes this very explainer on a backbone, on this one or another, once for each.
    """

    rows: Sequence[Row]
    positions: Tensor
    maps: Tensor
    batch: Batch
    batch_images: Tensor
    backbone: Backbone
    batch_size: int
    explainer: Callable[[Backbone], Explainer]

    @property
    def dtype(self) -> str | None:
        """How the maps are stored, as a spec's `maps.dtype`; None for maps that are not."""
        return self.rows[0].get("dtype")

    @cached_property
    def images(self) -> Tensor:
        """(R, 3, H, W) float32 in [0, 1], the image of each map."""
        return self.batch_images[self.positions.to(self.batch_images.device)]

    @cached_property
    def large_maps(self) -> Tensor:
        """(R, H, W): the maps upsampled bilinearly to the images."""
        return resize(self.maps[:, None], self.batch_images.shape[-2:])[:, 0]

    @cached_property
    def targets(self) -> Tensor:
        """(R,) int64 target classes."""
        return torch.tensor([row["target"] for row in self.rows], device=self.backbone.device)

    @cached_property
    def probabilities(self) -> Tensor:
        """(R,) float32 softmax of the target on the whole image, of a float32 pass."""
        of_rows = [row["probability"] for row in self.rows]
        return torch.tensor(of_rows, dtype=torch.float32, device=self.backbone.device)

    @cached_property
    def probe(self) -> Probe:
        """The classifier, to be asked for the targets on changed images."""
        return Probe(self.backbone, self.images, self.targets, self.batch_size)

    @property
    def boxes(self) -> list[Tensor]:
        """Per map: its image's boxes (N, 4), pixels of the view."""
        return [self.batch.boxes[p] for p in self.positions.tolist()]

    @property
    def masks(self) -> list[Tensor | None]:
        """Per map: its image's mask (H, W) of object numbers, or None."""
        return [self.batch.masks[p] for p in self.positions.tolist()]

    @property
    def objects(self) -> Tensor:
        """(R, H, W) bool: pixels of the image's mask, or of its boxes where it has none."""
        return self.batch.objects[self.positions].to(self.maps.device)

    def explain(self, explainer: Explainer, images: Tensor) -> Tensor:
        """Explain the same targets on other images (R, 3, H, W).

        Returns:
            Maps (R, h, w) float32 in [0, 1], rounded as the stored maps are, so that a map that
            does not change is equal to its stored one. NaN where there is no map.
        """
        if not explainer.explains_again:
            return torch.full_like(self.maps, torch.nan)
        if not explainer.reads_image:
            return self.maps
        maps = []
        for chunk in torch.arange(len(images)).split(self.batch_size):
            batch = self.batch.at(self.positions[chunk].tolist())
            forward = forward_pass(explainer.backbone, batch, images[chunk])
            attributed = explainer.attribute(forward, self.targets[chunk][:, None])
            maps.append(min_max(attributed)[:, 0].to(self.maps.device))
        return self._rounded(torch.cat(maps))

    def _rounded(self, maps: Tensor) -> Tensor:
        """Round maps as the lake does when it stores them."""
        if self.dtype is None:
            return maps.float()
        rounded = round_as_stored(maps.float().cpu().numpy(), self.dtype)
        return torch.from_numpy(rounded).to(maps.device)

    def where(self, chosen: Sequence[bool]) -> MappedImages:
        """Return those maps that are chosen."""
        numbers = [i for i, wanted in enumerate(chosen) if wanted]
        rows = [self.rows[i] for i in numbers]
        return replace(self, rows=rows, positions=self.positions[numbers], maps=self.maps[numbers])


class Family(ABC):
    """Scores of one kind.

    A subclass in a module of this package, or in an entry point of the group `ttame.metrics`, is in
    the registry. The columns of its rows and its metrics stand in the SQL file of the same name, or
    in an entry point of the group `ttame.scores` (ttame_core/lake/families.py).

    Attributes:
        name: in specs and in the lake.
        version: raised when its rows change, so that they are redone.
        reexplains: whether it runs the explainer again; others read its maps alone.
        Settings: its own keys in a spec.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    reexplains: ClassVar[bool] = False

    class Settings(spec.Section):
        """The keys of a spec that set it."""

    def __init__(self, settings: dict[str, Any] | None = None) -> None:
        self.settings: Any = self.Settings.model_validate(settings or {})

    def score(self, mapped: MappedImages) -> list[Row]:
        """Return all rows, with gradients on where maps are made again."""
        with torch.set_grad_enabled(self.reexplains):
            return list(self.rows(mapped)) if mapped.rows else []

    @abstractmethod
    def rows(self, mapped: MappedImages) -> Iterator[Row]:
        """Rows of scores: any number per map, each with the map's own columns and the family's."""
