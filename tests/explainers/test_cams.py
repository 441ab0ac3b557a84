"""Every explainer of the CAM family against the library called directly, or a textbook version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import pytest
import pytorch_grad_cam as grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from tiny import PLAIN, tiny_backbone, tiny_swin, tiny_vit
from torch import nn

from ttame_core.backbones import Backbone, Tap
from ttame_core.data.loader import Batch, load_batches
from ttame_core.explainers import REGISTRY, NotApplicable, forward_pass, measure
from ttame_core.explainers.score_cams import _Ablated
from ttame_core.lake import Lake
from ttame_core.perturbation.masking import min_max
from ttame_core.seeding import generator_for


@pytest.fixture
def batch(drawn: tuple[Lake, str]) -> Batch:
    return next(load_batches(*drawn, ["test-000000"], PLAIN, 2, 2))


def _patches(tokens: torch.Tensor) -> torch.Tensor:
    return tokens[:, 1:].reshape(len(tokens), 8, 8, -1).permute(0, 3, 1, 2)


def _rows(output: torch.Tensor) -> torch.Tensor:
    return output.permute(0, 3, 1, 2)


# What a user of the library has to know about each model: the layer, that of methods that need no
# gradient, and how their outputs become (B, C, h, w).
BY_HAND: dict[str, tuple[Callable[[], Backbone], Callable, Callable, Callable | None]] = {
    "resnet": (cache(tiny_backbone), lambda m: m.layer4, lambda m: m.layer4, None),
    "vit": (cache(tiny_vit), lambda m: m.blocks[-1].norm1, lambda m: m.blocks[-1], _patches),
    "swin": (cache(tiny_swin), lambda m: m.layers[-1], lambda m: m.layers[-1], _rows),
}
LIBRARY = {
    "gradcam": grad_cam.GradCAM,
    "gradcam++": grad_cam.GradCAMPlusPlus,
    "layercam": grad_cam.LayerCAM,
    "xgradcam": grad_cam.XGradCAM,
    "hirescam": grad_cam.HiResCAM,
    "eigencam": grad_cam.EigenCAM,
    "scorecam": grad_cam.ScoreCAM,
    "ablationcam": grad_cam.AblationCAM,
}
NO_GRADIENT = ("eigencam", "scorecam")
TARGETS = torch.tensor([[0, 3], [1, 9]])


@pytest.mark.parametrize("name", [n for n in LIBRARY if n != "ablationcam"])
@pytest.mark.parametrize("family", BY_HAND)
def test_it_is_the_librarys_with_nothing_to_configure(family: str, name: str, batch: Batch) -> None:
    make, layer, without_gradient, reshape = BY_HAND[family]
    backbone = make()
    forward = forward_pass(backbone, batch)
    ours = min_max(REGISTRY[name](backbone).attribute(forward, TARGETS))
    net = backbone.model
    place = without_gradient(net) if name in NO_GRADIENT else layer(net)
    with LIBRARY[name](net, [place], reshape_transform=reshape) as cam:
        cam.compute_input_gradient = True
        cam.get_target_width_height = lambda inputs: None
        inputs = backbone.normalise(batch.float_images())
        for column in range(TARGETS.shape[1]):
            chosen = [ClassifierOutputTarget(int(t)) for t in TARGETS[:, column]]
            theirs = min_max(torch.from_numpy(cam(inputs, chosen)))
            assert torch.allclose(ours[:, column], theirs, atol=2e-3)
    assert ours.max() == 1


@pytest.mark.parametrize("family", BY_HAND)
def test_finercam_is_the_librarys(family: str, batch: Batch) -> None:
    make, layer, _, reshape = BY_HAND[family]
    backbone = make()
    ours = min_max(REGISTRY["finercam"](backbone).attribute(forward_pass(backbone, batch), TARGETS))
    inputs = backbone.normalise(batch.float_images())
    cam = grad_cam.FinerCAM(backbone.model, [layer(backbone.model)], reshape)
    cam.compute_input_gradient = True
    cam.base_cam.get_target_width_height = lambda inputs: None
    for row, column in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        found = cam(inputs[row : row + 1], alpha=0.6, target_idx=int(TARGETS[row, column]))
        assert torch.allclose(ours[row, column], min_max(torch.from_numpy(found))[0], atol=2e-3)


def test_finercam_tells_two_classes_apart() -> None:
    logits = torch.tensor([3.0, 1.0])
    score = REGISTRY["finercam"](tiny_backbone(), {"alpha": 0.5}).score(logits, 0)
    assert score(logits) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("name", "theirs", "settings"),
    [
        ("smoothgradcam++", "SmoothGradCAMpp", {"samples": 1, "noise": 0.0}),
        ("sscam", "SSCAM", {"samples": 2, "noise": 0.5}),
        ("iscam", "ISCAM", {"steps": 3}),
    ],
)
def test_it_is_torchcams(name: str, theirs: str, settings: dict, batch: Batch) -> None:
    """On a network whose features are as large as the image, so that nothing is enlarged."""
    methods = pytest.importorskip("torchcam.methods")
    backbone = _without_stride(1e4 if name == "smoothgradcam++" else 1)
    ours = min_max(
        REGISTRY[name](backbone, settings).attribute(forward_pass(backbone, batch), TARGETS)
    )
    keys = {"samples": "num_samples", "steps": "num_samples", "noise": "std"}
    chosen = {keys[key]: value for key, value in settings.items() if value}
    inputs = backbone.normalise(batch.float_images())
    with getattr(methods, theirs)(backbone.model, "2", **chosen) as cam:
        for row, column in [(0, 0), (0, 1), (1, 0), (1, 1)]:
            draw = partial(_noise, generator_for(batch.keys[row]), settings.get("noise"))
            cam._distrib = SimpleNamespace(sample=draw)
            scores = backbone.model(inputs[row : row + 1].clone().requires_grad_())
            found = cam(int(TARGETS[row, column]), scores)[0][0].detach()
            assert torch.allclose(ours[row, column], found, atol=1e-4)


def _noise(generator: torch.Generator, deviation: float, size: torch.Size) -> torch.Tensor:
    return deviation * torch.randn(size, generator=generator)


def _without_stride(scale: float) -> Backbone:
    """Make a network whose logits are so large that what keeps from dividing by 0 is nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
    )
    model[-1].weight.data *= scale
    return Backbone(model.eval(), "plain", PLAIN, ["0", "2"])


def test_refinecam_is_the_librarys(batch: Batch) -> None:
    backbone = _without_stride(1e4)
    net = backbone.model
    ours = REGISTRY["refinecam"](backbone).attribute(forward_pass(backbone, batch), TARGETS)
    cam = grad_cam.RefineCAM(net, [net[0], net[2]])
    for of_layer in cam.base_cam_per_layer:
        of_layer.compute_input_gradient = True
    chosen = [ClassifierOutputTarget(int(t)) for t in TARGETS[:, 1]]
    theirs = torch.from_numpy(cam(backbone.normalise(batch.float_images()), chosen))
    assert torch.allclose(min_max(ours[:, 1]), min_max(theirs), atol=1e-4)


def test_refinecam_enlarges_to_the_largest_tap(batch: Batch) -> None:
    backbone = tiny_backbone()
    found = REGISTRY["refinecam"](backbone).attribute(forward_pass(backbone, batch), TARGETS)
    sides = [(tap.height, tap.width) for tap in backbone.taps]
    assert min(sides) < max(sides) == tuple(found.shape[2:])
    maps = [
        nn.functional.interpolate(
            min_max(REGISTRY["gradcam++"](at).attribute(forward_pass(at, batch), TARGETS)),
            found.shape[2:],
            mode="bilinear",
        )
        for tap in backbone.taps
        if (at := Backbone(backbone.model, "one", PLAIN, [tap.module]))
    ]
    assert torch.allclose(found, torch.stack(maps).prod(0), atol=1e-5)


def test_smooth_gradcam_plus_plus_is_the_papers_mean_over_noisy_images(batch: Batch) -> None:
    backbone = _without_stride(1e4)
    net = backbone.model
    explainer = REGISTRY["smoothgradcam++"](backbone, {"samples": 3, "noise": 0.5})
    ours = explainer.attribute(forward_pass(backbone, batch), TARGETS)[0, 1]
    image = backbone.normalise(batch.float_images())[0]
    noise = torch.randn(3, *image.shape, generator=generator_for(batch.keys[0]))
    powers = []
    for sample in noise:
        features = net[:3]((image + 0.5 * sample)[None]).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(net[3:](features)[0, TARGETS[0, 1]], features)
        powers.append([gradient[0] ** power for power in (1, 2, 3)])
    once, twice, thrice = (torch.stack(p).mean(0) for p in zip(*powers, strict=True))
    features = net[:3](image[None])[0].detach()
    total = 2 * twice + (thrice * features).sum((1, 2), keepdim=True)
    weights = (twice / (total + 1e-8) * once.relu()).sum((1, 2))
    expected = (weights[:, None, None] * features).sum(0).relu()
    assert torch.allclose(min_max(ours), min_max(expected), atol=1e-4)
    assert expected.max() > 0


def test_ablationcam_is_the_librarys_where_activations_end_at_zero(batch: Batch) -> None:
    backbone = tiny_backbone()
    ours = REGISTRY["ablationcam"](backbone).attribute(forward_pass(backbone, batch), TARGETS)
    net = backbone.model
    with grad_cam.AblationCAM(net, [net.layer4]) as cam:
        cam.get_target_width_height = lambda inputs: None
        chosen = [ClassifierOutputTarget(int(t)) for t in TARGETS[:, 1]]
        theirs = torch.from_numpy(cam(backbone.normalise(batch.float_images()), chosen))
    assert torch.allclose(min_max(ours[:, 1]), min_max(theirs), atol=2e-3)


@pytest.mark.parametrize(("family", "first"), [("vit", 1), ("swin", 0)])
def test_ablationcam_is_the_papers_equation(family: str, first: int, batch: Batch) -> None:
    make, layer, _, reshape = BY_HAND[family]
    backbone = make()
    ours = REGISTRY["ablationcam"](backbone).attribute(forward_pass(backbone, batch), TARGETS)
    inputs = backbone.normalise(batch.float_images())[:1]

    def run(*channels: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits without these channels of the patches, and the layer's map (C, h, w)."""
        seen = []

        def hook(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            for channel in channels:
                output[:, first:, ..., channel] = 0
            seen.append(reshape(output)[0])
            return output

        handle = layer(backbone.model).register_forward_hook(hook)
        with torch.no_grad():
            logits = backbone.model(inputs)[0]
        handle.remove()
        return logits, seen[0]

    whole, features = run()
    weights = torch.stack([(whole - run(c)[0]) / whole for c in range(len(features))])
    for column, target in enumerate(TARGETS[0].tolist()):
        expected = (weights[:, target, None, None] * features).sum(dim=0).clamp(min=0)
        assert torch.allclose(ours[0, column], expected, atol=1e-4)
        assert expected.max() > 0


@pytest.mark.parametrize(
    ("tap", "shape"),
    [
        (Tap("m", "NCHW", 5, 2, 3), (3, 5, 2, 3)),
        (Tap("m", "NHWC", 5, 2, 3), (3, 2, 3, 5)),
        (Tap("m", "tokens", 5, 2, 3, prefix=2), (3, 8, 5)),
        (Tap("m", "tokens", 5, 2, 3, order=(5, 3, 1, 0, 2, 4)), (3, 6, 5)),
    ],
    ids=["NCHW", "NHWC", "prefix", "order"],
)
def test_a_channel_is_ablated_on_the_map_and_nowhere_else(tap: Tap, shape: tuple) -> None:
    given = torch.rand(shape) + 1
    found = _Ablated(tap, torch.tensor([4, 0, 2]))(given)
    expected = tap.feature_map(given).clone()
    for copy, channel in enumerate([4, 0, 2]):
        expected[copy, channel] = 0
    assert torch.equal(tap.feature_map(found), expected)
    assert (found == 0).sum() == 3 * 6
    assert given.min() >= 1


@pytest.mark.parametrize("family", BY_HAND)
@pytest.mark.parametrize(
    "name", ["gradcam", "eigencam", "scorecam", "ablationcam", "smoothgradcam++", "refinecam"]
)
def test_a_map_does_not_depend_on_its_batch(family: str, name: str, batch: Batch) -> None:
    backbone = BY_HAND[family][0]()
    if family == "resnet":
        backbone = tiny_backbone()
        backbone.model.to(memory_format=torch.channels_last)
    explainer = REGISTRY[name](backbone)
    forward = forward_pass(backbone, batch)
    together = min_max(explainer.attribute(forward, TARGETS))
    alone = min_max(explainer.attribute(forward_pass(backbone, batch.first(1)), TARGETS[:1]))
    # loosely, for some are sums that nearly cancel out (HiResCAM in front of a layer norm)
    assert torch.allclose(together[:1], alone, atol=3e-2)


@pytest.mark.parametrize(
    "name",
    [
        *("gradcam", "eigencam", "scorecam", "ablationcam", "finercam"),
        *("refinecam", "smoothgradcam++", "iscam"),
    ],
)
def test_it_works_on_a_folded_backbone_and_costs_what_it_says(name: str, batch: Batch) -> None:
    folded, plain = tiny_backbone().fold(), tiny_backbone()
    found, expected = (
        min_max(REGISTRY[name](b).attribute(forward_pass(b, batch), TARGETS))
        for b in (folded, plain)
    )
    assert torch.allclose(found, expected, atol=5e-3)
    explainer, forward = REGISTRY[name](folded), forward_pass(folded, batch)
    with measure(folded) as cost:
        explainer.attribute(forward, TARGETS[:, :1])
    count = {"C": folded.taps[-1].channels, "taps": len(folded.taps)}
    count |= explainer.settings.model_dump()
    assert cost.forward == 2 * eval(explainer.forwards, count)
    assert cost.backward == 2 * eval(explainer.backwards, count)


def test_they_say_where_they_do_not_apply(tiny: Backbone) -> None:
    only = Backbone(tiny_vit().model, "vit", PLAIN, ["blocks.3.mlp"])
    for name in ("gradcam", "hirescam", "ablationcam"):
        with pytest.raises(NotApplicable, match="gradient"):
            REGISTRY[name](only)
    for name in ("eigencam", "scorecam"):
        REGISTRY[name](only)
        pooled = Backbone(tiny.model, "pooled", PLAIN)
        pooled.taps = tuple(replace(tap, height=1, width=1) for tap in pooled.taps)
        with pytest.raises(NotApplicable, match="more than one place"):
            REGISTRY[name](pooled)
