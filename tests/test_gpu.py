"""What is the same on a GPU and on the CPU; `make bench-gpu` runs these where there is a GPU."""

from __future__ import annotations

import pytest
import torch
from tiny import TINY_VIT, tiny_backbone

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.devices import device_of, place, precision_of
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.attention import AttentionHead
from ttame_core.perturbation.imputation import impute
from ttame_core.training.first_pass import first_pass
from ttame_core.training.head import training_losses

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
IMAGES = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _network(model: str) -> tuple[Backbone, AttentionHead]:
    arguments = TINY_VIT if model.startswith("vit") else {}
    backbone = tiny_backbone(model, **arguments)
    torch.manual_seed(1)
    return backbone, AttentionHead([t.channels for t in backbone.taps], 10, backbone.map_size)


@pytest.mark.parametrize("model", ["resnet10t", "vit_tiny_patch16_224"])
def test_logits_and_maps(model: str) -> None:
    made = []
    for device in ("cpu", "cuda"):
        backbone, head = _network(model)
        place(backbone, spec.Compute(device=device))
        with torch.inference_mode():
            images = IMAGES.to(backbone.device)
            logits, features = backbone.features(backbone.normalise(images))
            maps = head.eval().to(backbone.device)(features, torch.zeros_like(logits[:, 0]).long())
        made.append((logits.cpu(), maps.cpu()))
    torch.testing.assert_close(made[0], made[1], rtol=1e-2, atol=1e-2)  # convolutions in TF32


@pytest.mark.parametrize("percentage", [10, 50, 90])
def test_imputed_pixels(percentage: int) -> None:
    removed = torch.rand(4, 64, 64, generator=torch.Generator().manual_seed(2)) < percentage / 100
    there = impute(IMAGES.cuda(), removed.cuda()).cpu()
    torch.testing.assert_close(there, impute(IMAGES, removed), rtol=0, atol=2e-3)


def test_a_step_of_training_in_the_format_that_auto_takes() -> None:
    compute = spec.Compute(device="auto", precision="auto")
    backbone, head = _network("resnet10t")
    place(backbone, compute)
    assert device_of(compute).type == "cuda"
    assert backbone.precision is precision_of(compute, backbone.device)
    head.to(backbone.device)
    with backbone.autocast():
        explainer = TTame(backbone)
        whole = first_pass(explainer, IMAGES.to(backbone.device))
        losses = training_losses(explainer, head, whole, spec.Training(recipe="paper"))
    losses.loss.backward()
    gradients = [p.grad for p in head.parameters() if p.grad is not None]
    assert gradients
    assert all(g.is_cuda and g.isfinite().all() for g in gradients)
