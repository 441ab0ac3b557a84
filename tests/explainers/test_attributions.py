"""Each explainer through captum against captum called directly, one image at a time."""

from __future__ import annotations

from functools import cache

import captum.attr
import numpy as np
import pytest
import timm
import torch
from tiny import PLAIN, tiny_backbone, tiny_vit

from ttame_core.backbones import Backbone
from ttame_core.data.loader import Batch, load_batches
from ttame_core.explainers import REGISTRY, NotApplicable, forward_pass, measure
from ttame_core.explainers.attributions import _seeded
from ttame_core.explainers.base import bounded
from ttame_core.lake import Lake

TARGETS = torch.tensor([[0, 3], [1, 9]])
FAMILIES = {"resnet": cache(tiny_backbone), "vit": cache(tiny_vit)}
GREY, BLACK = 0.0, -2.0  # of an image normalised as PLAIN has it


@pytest.fixture
def batch(drawn: tuple[Lake, str]) -> Batch:
    return next(load_batches(*drawn, ["test-000000"], PLAIN, 2, 2))


def _saliency(net: torch.nn.Module, image: torch.Tensor, target: int) -> torch.Tensor:
    return captum.attr.Saliency(net).attribute(image, target).sum(dim=1)


def _integrated(net: torch.nn.Module, image: torch.Tensor, target: int) -> torch.Tensor:
    method = captum.attr.IntegratedGradients(net)
    found = method.attribute(image, torch.full_like(image, BLACK), target, n_steps=4)
    return found.abs().sum(dim=1)


def _occlusion(net: torch.nn.Module, image: torch.Tensor, target: int) -> torch.Tensor:
    found = captum.attr.Occlusion(net).attribute(
        image, (3, 20, 20), (3, 20, 20), baselines=GREY, target=target
    )
    return found[:, 0].clamp(min=0)


def _deeplift(net: torch.nn.Module, image: torch.Tensor, target: int) -> torch.Tensor:
    black = torch.full_like(image, BLACK)
    return captum.attr.DeepLift(net).attribute(image, black, target).abs().sum(dim=1)


DIRECTLY = {
    ("saliency", "resnet"): (_saliency, {}),
    ("saliency", "vit"): (_saliency, {}),
    ("integrated_gradients", "resnet"): (_integrated, {"steps": 4}),
    ("integrated_gradients", "vit"): (_integrated, {"steps": 4}),
    ("occlusion", "resnet"): (_occlusion, {"window": 0.31, "stride": 0.31}),
    ("occlusion", "vit"): (_occlusion, {"window": 0.31, "stride": 0.31}),
    ("deeplift", "resnet"): (_deeplift, {}),
}


@pytest.mark.parametrize(("name", "family"), DIRECTLY)
def test_it_is_captums(name: str, family: str, batch: Batch) -> None:
    backbone = FAMILIES[family]()
    directly, settings = DIRECTLY[name, family]
    explainer = REGISTRY[name](backbone, settings)
    with measure(backbone) as cost:
        maps = explainer.attribute(forward_pass(backbone, batch), TARGETS)
    assert maps.shape == (2, 2, 64, 64)
    assert not maps.requires_grad
    net = tiny_backbone().model if name == "deeplift" else backbone.model
    for module in net.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    for i, row in enumerate(TARGETS.tolist()):
        image = backbone.normalise(batch.float_images())[i : i + 1].requires_grad_()
        for column, target in enumerate(row):
            expected = directly(net, image, target)[0].detach()
            assert torch.allclose(maps[i, column], expected, rtol=1e-3, atol=1e-5)
    assert maps.max() > 0
    if name == "occlusion":
        assert cost.forward == 2 + 4 * (1 + 4**2)  # of the shared pass, and ceil(44 / 20) + 1
    else:
        assert cost.forward == 2 + 4 * eval(explainer.forwards, settings)
        assert cost.backward == 4 * eval(explainer.backwards, settings)


def test_gradient_shap_is_captums_and_the_same_for_the_same_key(batch: Batch) -> None:
    backbone = tiny_vit()
    explainer = REGISTRY["gradient_shap"](backbone, {"samples": 6, "noise": 0.2})
    maps = explainer.attribute(forward_pass(backbone, batch), TARGETS)
    alone = explainer.attribute(forward_pass(backbone, batch.first(1)), TARGETS[:1])
    assert torch.allclose(maps[:1], alone, rtol=1e-3, atol=1e-6)
    before = torch.initial_seed(), np.random.get_state()[1].tolist()
    image = backbone.normalise(batch.float_images())[1:].requires_grad_()
    ends = torch.stack([torch.full((3, 64, 64), -2.0), torch.full((3, 64, 64), 2.0)])
    with _seeded(f"{batch.keys[1]}/9"):
        expected = captum.attr.GradientShap(backbone.model).attribute(
            image, ends, n_samples=6, stdevs=0.2, target=9
        )
    assert torch.allclose(maps[1, 1], expected.abs().sum(dim=1)[0], rtol=1e-3, atol=1e-6)
    assert before == (torch.initial_seed(), np.random.get_state()[1].tolist())


def test_integrated_gradients_of_a_linear_classifier_are_its_weights(batch: Batch) -> None:
    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.head = torch.nn.Linear(4, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(x).mean(dim=(2, 3)))

    torch.manual_seed(0)
    backbone = Backbone(Linear(), "linear", PLAIN, ["conv"])
    forward = forward_pass(backbone, batch)
    settings = {"integrated_gradients": {"steps": 3}}
    found = {
        name: REGISTRY[name](backbone, settings.get(name)).attribute(forward, TARGETS)
        for name in ("integrated_gradients", "deeplift")
    }
    weights = torch.einsum("kc,cdij->kd", backbone.model.head.weight, backbone.model.conv.weight)
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))  # where no window is cut off
    differences = backbone.normalise(batch.float_images()) - BLACK
    expected = torch.stack(
        [(differences * weights[c][:, :, None, None]).abs().sum(dim=1) for c in TARGETS.T], dim=1
    ).detach()
    for maps in found.values():
        assert torch.allclose(maps[inner], expected[inner] / 64**2, rtol=1e-3, atol=1e-6)


def test_deeplift_says_where_it_does_not_apply() -> None:
    with pytest.raises(NotApplicable, match="do not add up"):
        REGISTRY["deeplift"](tiny_vit())

    class Reused(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3)
            self.act, self.head = torch.nn.ReLU(), torch.nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.act(self.second(self.act(self.first(x))))
            return self.head(x.mean(dim=(2, 3)))

    backbone = Backbone(Reused(), "reused", PLAIN, ["second"])
    with pytest.raises(NotApplicable, match=r"cannot run on reused.*more than once"):
        REGISTRY["deeplift"](backbone)
    assert not any({"input", "output"} & set(vars(m)) for m in backbone.modules())
    assert not any(m._forward_hooks or m._backward_hooks for m in backbone.modules())


def test_deeplift_leaves_inplace_modules_as_they_were(batch: Batch) -> None:
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=10, channels=(8, 8, 8, 8), stem_width=8)
    inplace = [m.inplace for m in net.modules() if hasattr(m, "inplace")]
    REGISTRY["deeplift"](Backbone(net, "net", PLAIN))
    assert any(inplace)
    assert [m.inplace for m in net.modules() if hasattr(m, "inplace")] == inplace


def test_large_maps_are_averaged_down() -> None:
    maps = torch.rand(2, 3, 448, 200)
    found = bounded(maps)
    assert found.shape == (2, 3, 224, 200)
    assert torch.allclose(found, (maps[:, :, ::2] + maps[:, :, 1::2]) / 2)
    assert bounded(found) is found
