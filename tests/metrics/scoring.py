"""Explainers whose maps are known, and the whole way from a shard to the lake's scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.explainers import REGISTRY, Explainer, ForwardPass
from ttame_core.heads.attention import AttentionHead
from ttame_core.lake import Lake, scores_file
from ttame_core.metrics import Family
from ttame_core.stages.evaluate import WantedScores, evaluate_shard
from ttame_core.stages.explain import WantedMaps, explain_shard
from ttame_core.stages.shard import StoredShard

SHARD = "test-000000"
Maker = Callable[[Backbone], Explainer]


class Brightness(Explainer):
    """How bright the image is, at 8×8, times the target's logit: it reads both."""

    name = "brightness"

    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        grey = F.adaptive_avg_pool2d(forward.images.mean(dim=1, keepdim=True), 8)
        return grey * forward.logits.gather(1, targets)[..., None, None]


class Constant(Explainer):
    """The same map for every image."""

    name = "constant"

    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        ramp = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
        return ramp.expand(*targets.shape, 8, 8)


def maker(name: str, backbone: Backbone) -> Maker:
    """What makes an explainer of the registry; a trained head is the same for every backbone."""
    torch.manual_seed(4)
    head = AttentionHead([t.channels for t in backbone.taps], 10, backbone.map_size)
    return lambda model: REGISTRY[name](model, None, head)


def score(
    drawn: tuple[Lake, str],
    backbone: Backbone,
    makers: Mapping[str, Maker],
    families: Sequence[Family],
    batch_size: int = 5,
    targets: str = "predicted",
    dtype: str = "float16",
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows of each family and explainer, over the test shard of 12 pictures."""
    lake, dataset = drawn
    compute = spec.Compute(device="cpu", batch_size=batch_size, workers=2)
    maps = [
        WantedMaps(name, make(backbone), {"explainer": name, "dtype": dtype}, dtype=dtype)
        for name, make in makers.items()
    ]
    explain_shard(StoredShard(lake, dataset, SHARD), backbone, maps, targets, compute)
    wanted = [
        WantedScores(name, family, {"scores": name}) for name in makers for family in families
    ]
    evaluate_shard(StoredShard(lake, dataset, SHARD), backbone, wanted, makers, compute)
    return {
        (family.name, name): lake.read_table(
            scores_file(family.name, dataset, backbone.name, name, SHARD)
        ).to_pylist()
        for family in families
        for name in makers
    }
