"""Explainers that go through the classifier: where they apply, and that they leave it as it was."""

from __future__ import annotations

import pytest
import torch
from tiny import TINY_SWIN, TINY_VIT, lively, noise_pass, tiny_backbone

from ttame_core.backbones import Backbone
from ttame_core.explainers import REGISTRY, NotApplicable, measure

SMALL = TINY_VIT | {"depth": 2}
NETWORKS = {
    "resnet": ("resnet10t", {}),
    "class token": ("vit_tiny_patch16_224", SMALL),
    "pooled": ("vit_tiny_patch16_224", SMALL | {"global_pool": "avg"}),
    "windows": ("swin_tiny_patch4_window7_224", TINY_SWIN),
}
EXPLAINERS = {
    "rise": {"masks": 2},
    "iia": {"steps": 1},
    "opticam": {"iterations": 2},
    "rollout": {},
    "transformer_attribution": {},
}
PLAIN_ONLY = {"rollout", "transformer_attribution"}
# Of two images and two targets, forward and backward; targets share what does not depend on them.
COSTS = {"rise": (4, 0), "opticam": (8, 8), "rollout": (2, 0), "transformer_attribution": (4, 8)}
TARGETS = torch.tensor([[0, 3], [9, 2]])


def _state(backbone: Backbone) -> list[object]:
    """All that an explainer could have left behind."""
    return [
        (
            name,
            [sum(p.double().sum().item() for p in module.parameters(recurse=False))],
            [p.requires_grad or p.grad is not None for p in module.parameters(recurse=False)],
            len(module._forward_hooks) + len(module._forward_pre_hooks),
            getattr(module, "fused_attn", None),
            module.training,
            type(module).__call__,
            "forward" in vars(module),
        )
        for name, module in backbone.model.named_modules()
    ]


@pytest.mark.parametrize("network", NETWORKS)
def test_each_gives_maps_or_refuses_and_leaves_no_trace(network: str) -> None:
    model, arguments = NETWORKS[network]
    backbone = lively(tiny_backbone(model, **arguments))
    forward = noise_pass(backbone, 2)
    before = _state(backbone)
    refused = set()
    for name, settings in EXPLAINERS.items():
        try:
            explainer = REGISTRY[name](backbone, settings)
        except NotApplicable:
            refused.add(name)
            continue
        with measure(backbone) as cost:
            maps = explainer.attribute(forward, TARGETS)
        assert maps.shape[:2] == (2, 2)
        assert maps.dtype == torch.float32
        assert maps.isfinite().all()
        assert not maps.requires_grad
        assert (maps.flatten(2).amax(dim=2) > maps.flatten(2).amin(dim=2)).all()
        if name != "rollout":
            assert not torch.equal(maps[:, 0], maps[:, 1])
        if name in COSTS:
            assert (cost.forward, cost.backward) == COSTS[name]
        assert _state(backbone) == before
    assert refused == (PLAIN_ONLY if network in ("resnet", "windows") else set())


@pytest.mark.parametrize("name", ["rollout", "transformer_attribution", "iia"])
def test_the_batch_does_not_matter(name: str) -> None:
    backbone = lively(tiny_backbone("vit_tiny_patch16_224", **SMALL))
    explainer = REGISTRY[name](backbone, EXPLAINERS[name])
    forward = noise_pass(backbone, 2)
    together = explainer.attribute(forward, TARGETS)
    alone = explainer.attribute(forward.first(1), TARGETS[:1])
    assert torch.allclose(alone, together[:1], rtol=1e-2, atol=1e-3 * together.max())
