"""The base class of families of metrics, which turn maps and their images into rows of scores."""

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
        rows: columns of each map's row in the lake (key, label, predicted, target, …).
        positions: (R,) int64, position of each map's image in the batch.
        maps: (R, h, w) float32 in [0, 1].
        batch: B images with their keys, labels, boxes and masks.
        batch_images: (B, 3, H, W) float32 in [0, 1], all images of the batch.
        backbone: the classifier that is explained.
        batch_size: number of images in a forward pass.
        explainer: function that makes the explainer of these maps for a backbone, this one or a
            changed copy; it makes one for each and returns the same afterwards.
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
        """The number format of the stored maps (a spec's `maps.dtype`); None if not stored."""
        return self.rows[0].get("dtype")

    @cached_property
    def images(self) -> Tensor:
        """The image of each map, (R, 3, H, W) float32 in [0, 1]."""
        return self.batch_images[self.positions.to(self.batch_images.device)]

    @cached_property
    def large_maps(self) -> Tensor:
        """The maps upsampled bilinearly to the images' size, (R, H, W)."""
        return resize(self.maps[:, None], self.batch_images.shape[-2:])[:, 0]

    @cached_property
    def targets(self) -> Tensor:
        """The target class of each map, (R,) int64."""
        return torch.tensor([row["target"] for row in self.rows], device=self.backbone.device)

    @cached_property
    def probabilities(self) -> Tensor:
        """The probability of each target on the whole image, (R,), from a float32 pass."""
        of_rows = [row["probability"] for row in self.rows]
        return torch.tensor(of_rows, dtype=torch.float32, device=self.backbone.device)

    @cached_property
    def probe(self) -> Probe:
        """A `Probe`, which gives the targets' probabilities on changed images."""
        return Probe(self.backbone, self.images, self.targets, self.batch_size)

    @property
    def boxes(self) -> list[Tensor]:
        """The boxes (N, 4) of each map's class in its image, in pixels of the view."""
        return [self.batch.boxes_of(*pair) for pair in self._pairs]

    @property
    def masks(self) -> list[Tensor | None]:
        """The mask (H, W) of each map's class in its image, 0 for background, or None."""
        return [self.batch.mask_of(*pair) for pair in self._pairs]

    @property
    def objects(self) -> Tensor:
        """The pixels of each map's mask, or of its boxes where it has none, (R, H, W) bool."""
        targets = [row["target"] for row in self.rows]
        return self.batch.objects_of(self.positions.tolist(), targets).to(self.maps.device)

    @property
    def _pairs(self) -> list[tuple[int, int]]:
        targets = [row["target"] for row in self.rows]
        return list(zip(self.positions.tolist(), targets, strict=True))

    def explain(self, explainer: Explainer, images: Tensor) -> Tensor:
        """Explain the same targets on other images.

        Args:
            explainer: explainer that makes the maps.
            images: (R, 3, H, W) float32 in [0, 1].

        Returns:
            Maps (R, h, w) float32 in [0, 1], rounded as stored maps are, so that an unchanged map
            equals the stored one. NaN where there is no map.
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
        """Return the chosen maps and their images; `chosen` has R booleans."""
        numbers = [i for i, wanted in enumerate(chosen) if wanted]
        rows = [self.rows[i] for i in numbers]
        return replace(self, rows=rows, positions=self.positions[numbers], maps=self.maps[numbers])


class Family(ABC):
    """A family of metrics, which makes rows of scores from maps and their images.

    The registry holds the subclasses in modules of this package, and those that entry points of the
    group `ttame.metrics` name. The SQL file of the same name, or an entry point of the group
    `ttame.scores`, defines the columns of the rows and the metrics (ttame_core/lake/families.py).

    Attributes:
        name: the family's name in specs and in the lake.
        version: increase it when the rows change, so that they are made again.
        reexplains: whether the family runs the explainer again; others only read maps.
        Settings: class of the family's keys in a spec.
        settings: the keys as an instance of `Settings`.

    Args:
        settings: the family's keys in a spec, by name; missing ones have their defaults.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    reexplains: ClassVar[bool] = False

    class Settings(spec.Section):
        """The family's keys in a spec."""

    def __init__(self, settings: dict[str, Any] | None = None) -> None:
        self.settings: Any = self.Settings.model_validate(settings or {})

    def score(self, mapped: MappedImages) -> list[Row]:
        """Return all rows of maps; gradients are enabled for families that explain again."""
        with torch.set_grad_enabled(self.reexplains):
            return list(self.rows(mapped)) if mapped.rows else []

    @abstractmethod
    def rows(self, mapped: MappedImages) -> Iterator[Row]:
        """Yield rows of scores, any number for each map.

        Args:
            mapped: maps and their images.

        Yields:
            A row with the map's columns (`mapped.rows`) and the family's.
        """
