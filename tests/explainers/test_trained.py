"""Trained heads against the textbook: how each is made, what it masks, where gradients go."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny import PLAIN, TINY_VIT, sizes_of, tiny_backbone
from torch import Tensor, nn
from torch.nn import functional as F

from ttame_core import spec
from ttame_core.audits.specification import complete
from ttame_core.backbones import Backbone, Tap, load_backbone
from ttame_core.data.loader import load_batches
from ttame_core.errors import UserError
from ttame_core.explainers import (
    REGISTRY,
    NotApplicable,
    Trained,
    forward_pass,
    measure,
    training_of,
)
from ttame_core.heads.files import load_head
from ttame_core.lake import Lake
from ttame_core.stages.provenance import Provenance
from ttame_core.training.first_pass import first_pass
from ttame_core.training.head import optimiser, train_head, training_losses
from ttame_core.training.orders import TrainingOutput, TrainingShards

PAPER = spec.Training(recipe="paper", epochs=1, batch_size=8)
COMPUTE = spec.Compute(device="cpu", batch_size=8, workers=2)
SMALL = {"channels": [8, 16, 24, 32], "stem_width": 8}


class Pooled(nn.Module):
    """A classifier with nothing to tap: pixels are averaged and mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3 * 64, 16), nn.Linear(16, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(inputs, 8).flatten(1)
        return self.last(torch.tanh(self.first(pooled)))


def black_box(scripted: bool = False) -> Backbone:
    torch.manual_seed(3)
    net = Pooled()
    return Backbone(torch.jit.script(net) if scripted else net, "box", PLAIN, []).fold()


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> spec.Backbone:
    """The spec of a small network whose weights are in a file; an auxiliary for P-TAME."""
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t", num_classes=10, **SMALL).state_dict(), path)
    view = {"input_size": (64, 64), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return spec.Backbone(
        model="resnet10t", checkpoint=str(path), args=SMALL, num_classes=10, preprocessing=view
    )


def _settings(method: str, auxiliary: spec.Backbone) -> dict:
    return {"auxiliary": auxiliary.model_dump()} if method == "ptame" else {}


def _branches(head: nn.Module, features: list[Tensor], size: tuple[int, int]) -> Tensor:
    found = [
        F.interpolate(F.relu(bn(conv(x)) + x), size=size, mode="bilinear", align_corners=False)
        for conv, bn, x in zip(head.convs, head.bns, features, strict=True)
    ]
    return torch.cat(found, 1)


def _loss(attention: Tensor, masked_logits: Tensor, truth: Tensor) -> Tensor:
    """With the published constants; attention (B, h, w)."""
    a = attention
    edges = (a[:, 0], a[:, -1], a[:, :, 0], a[:, :, -1])
    variation = (a[:, 1:] - a[:, :-1]).pow(2).sum() + (a[:, :, 1:] - a[:, :, :-1]).pow(2).sum()
    variation = (variation + 0.3 * sum(e.pow(2).sum() for e in edges)) / (2 * len(a))
    area = (a + 0.0005).pow(0.3).mean()
    return 0.01 * variation + 2 * area + 1.5 * F.cross_entropy(masked_logits, truth)


@pytest.mark.parametrize("method", ["tame", "lcam_img", "lcam_fm", "ptame"])
def test_a_step_is_the_textbooks(method: str, described: spec.Backbone) -> None:
    backbone = black_box() if method == "ptame" else load_backbone(described)
    explainer = REGISTRY[method](backbone, _settings(method, described))
    training = explainer.training_of(spec.Training(), {})  # the method's loss, whatever the spec's
    torch.manual_seed(1)
    head = explainer.new_head().train()
    images = torch.rand(6, 3, 64, 64)
    losses = training_losses(explainer, head, first_pass(explainer, images), training)
    losses.loss.backward()
    found = [p.grad.clone() for p in head.parameters()]

    assert all(p.grad is None for p in backbone.parameters())
    head.zero_grad()
    net = load_backbone(described).model
    inputs = (images - 0.5) / 0.25
    with torch.no_grad():
        taps = [net.act1(net.bn1(net.conv1(inputs)))]
        taps[0] = net.maxpool(taps[0])
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            taps.append(layer(taps[-1]))
        logits = backbone.model(inputs)
    truth = logits.argmax(1)
    if method.startswith("lcam"):
        every = head.fuser(taps[-1])
    else:
        every = head.fuser(_branches(head, taps[2:], (8, 8)))
    attention = torch.sigmoid(every)[torch.arange(6), truth]
    if method == "lcam_fm":  # the rest of the network, from the masked feature maps
        masked_logits = net.fc(net.global_pool(taps[-1] * attention[:, None]))
    else:
        mask = F.interpolate(attention[:, None], size=(64, 64), mode="bilinear")
        masked_logits = backbone.model((images * mask - 0.5) / 0.25)
    expected = _loss(attention, masked_logits, truth)
    expected.backward()
    torch.testing.assert_close(losses.loss, expected, rtol=1e-5, atol=1e-6)
    for ours, parameter in zip(found, head.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-5)
        assert ours.abs().max() > 0 or parameter is head.fuser.bias


@pytest.mark.parametrize("method", ["ttame", "tame", "lcam_img", "lcam_fm", "ptame"])
def test_only_the_head_learns(method: str, described: spec.Backbone) -> None:
    backbone = load_backbone(described)
    explainer = REGISTRY[method](backbone, _settings(method, described))
    frozen = [backbone] + ([explainer.auxiliary] if method == "ptame" else [])
    before = [{n: v.clone() for n, v in f.state_dict().items()} for f in frozen]
    head = explainer.new_head().train()
    start = [p.clone() for p in head.parameters()]
    update = optimiser(head, spec.Training())
    images = first_pass(explainer, torch.rand(4, 3, 64, 64))
    training_losses(explainer, head, images, spec.Training()).loss.backward()
    update.step()
    assert all(p.grad is None for f in frozen for p in f.parameters())
    for network, state in zip(frozen, before, strict=True):
        assert all(torch.equal(state[n], v) for n, v in network.state_dict().items())
    assert all(not torch.equal(a, b) for a, b in zip(start, head.parameters(), strict=True))


def _gap_vit() -> Backbone:
    torch.manual_seed(0)
    pooled = {"global_pool": "avg", "class_token": False, "reg_tokens": 2}
    net = timm.create_model("vit_tiny_patch16_224", num_classes=10, **TINY_VIT, **pooled)
    return Backbone(net, "gap", PLAIN)


def _swin() -> Backbone:
    torch.manual_seed(0)
    net = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=10, img_size=64, window_size=4,
        embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 4),
    )  # fmt: skip
    return Backbone(net, "swin", PLAIN)


def _rest_of_vit(net: nn.Module, tokens: Tensor, attention: Tensor) -> Tensor:
    patches = tokens[:, 2:] * attention.flatten(1)[..., None]
    return net.forward_head(net.norm(torch.cat([tokens[:, :2], patches], 1)))


def _rest_of_swin(net: nn.Module, maps: Tensor, attention: Tensor) -> Tensor:
    return net.forward_head(net.norm(maps * attention[:, 0, :, :, None]))


@pytest.mark.parametrize(
    ("make", "last", "rest"),
    [(_gap_vit, "blocks.3", _rest_of_vit), (_swin, "layers.3", _rest_of_swin)],
)
def test_lcam_fm_runs_the_rest_of_transformers(
    make: Callable[[], Backbone], last: str, rest: Callable[..., Tensor]
) -> None:
    backbone = make()
    explainer = REGISTRY["lcam_fm"](backbone)
    (tap,) = explainer.taps
    assert tap.module == last
    images = torch.rand(2, 3, 64, 64)
    attention = torch.rand(2, 1, tap.height, tap.width)
    kept: list[Tensor] = []
    hook = backbone.model.get_submodule(last).register_forward_hook(lambda m, a, o: kept.append(o))
    with torch.no_grad():
        backbone(backbone.normalise(images))
        hook.remove()
        expected = rest(backbone.model, kept[0], attention)
        found = explainer.masked_logits(images, attention, attention, "raw")
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, backbone(backbone.normalise(images)), atol=1e-4)


def test_masking_a_tap_is_masking_its_feature_map() -> None:
    torch.manual_seed(0)
    attention = torch.rand(2, 1, 3, 4)
    order = tuple(torch.randperm(12).tolist())
    cases: list[tuple[Tap, Tensor]] = [
        (Tap("x", "NCHW", 5, 3, 4), torch.rand(2, 5, 3, 4)),
        (Tap("x", "NHWC", 5, 3, 4), torch.rand(2, 3, 4, 5)),
        (Tap("x", "tokens", 5, 3, 4, prefix=2), torch.rand(2, 14, 5)),
        (Tap("x", "tokens", 5, 3, 4, order=order), torch.rand(2, 12, 5)),
    ]
    for tap, output in cases:
        masked = tap.masked(output, attention)
        expected = tap.feature_map(output) * attention
        torch.testing.assert_close(tap.feature_map(masked), expected)
        if tap.prefix:
            assert torch.equal(masked[:, :2], output[:, :2])
    second = Tap("x", "NCHW", 5, 3, 4, item=1)
    first, found = second.masked((cases[0][1], cases[0][1]), attention)
    assert torch.equal(first, cases[0][1])
    torch.testing.assert_close(found, cases[0][1] * attention)


def test_masks_reach_a_compiled_backbone() -> None:
    backbone = tiny_backbone()
    backbone.model.compile(backend="eager")
    explainer = REGISTRY["lcam_fm"](backbone)
    images = torch.rand(2, 3, 64, 64)
    nothing = torch.zeros(2, 1, 2, 2)
    with torch.no_grad():
        backbone(backbone.normalise(images))  # compiled without the mask
        found = explainer.masked_logits(images, nothing, nothing, "raw")
    torch.testing.assert_close(found, backbone.model.fc.bias.expand(2, -1))
    torch.compiler.reset()


def test_where_they_do_not_apply(described: spec.Backbone) -> None:
    vit = tiny_backbone("vit_tiny_patch16_224", **TINY_VIT)
    with pytest.raises(NotApplicable, match=r"convolutional networks, and blocks\.3 of vit"):
        REGISTRY["tame"](vit)
    with pytest.raises(NotApplicable, match=r"do not depend on the feature maps of blocks\.3"):
        REGISTRY["lcam_fm"](vit)
    earlier = Backbone(vit.model, "vit", PLAIN, ["blocks.2"])
    assert [tap.module for tap in REGISTRY["lcam_fm"](earlier).taps] == ["blocks.2"]
    assert [tap.module for tap in REGISTRY["lcam_img"](vit).taps] == ["blocks.3"]
    for method in ("ttame", "tame", "lcam_img", "lcam_fm"):
        with pytest.raises(NotApplicable, match="only the logits of box can be seen"):
            REGISTRY[method](black_box())
    REGISTRY["ptame"](black_box(), _settings("ptame", described))


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_black_box_is_explained(
    scripted: bool, drawn: tuple[Lake, str], described: spec.Backbone
) -> None:
    backbone = black_box(scripted)
    assert backbone.taps == ()
    assert backbone.map_size == (56, 56)
    assert backbone.masking == "raw"
    lake, dataset = drawn
    train = sizes_of(lake, dataset, "train")
    explainer = REGISTRY["ptame"](backbone, _settings("ptame", described))
    folder = f"box{scripted}"
    shards = TrainingShards(lake, dataset, train, [], COMPUTE)
    train_head(shards, TrainingOutput(lake, folder, {"of": "box"}), explainer, PAPER)
    explainer.use(load_head(lake, folder, explainer))
    batch = next(load_batches(lake, dataset, ["test-000000"], PLAIN, 4, 2))
    with measure(backbone) as cost:
        forward = forward_pass(backbone, batch)
    assert cost.forward == 4
    assert forward.features == []
    maps = explainer.attribute(forward, torch.tensor([[0, 1]] * 4))
    assert maps.shape == (4, 2, 8, 8)
    assert (maps.flatten(2).std(dim=2) > 0).all()
    random = REGISTRY["random"](backbone).attribute(forward, torch.tensor([[0]] * 4))
    assert random.shape == (4, 1, 56, 56)


def test_a_script_is_told_to_be_a_black_box() -> None:
    with pytest.warns(), pytest.raises(UserError, match=r"taps: \[\]"):
        Backbone(torch.jit.script(Pooled()), "box", PLAIN)


def test_ptame_on_the_backbone_itself_is_ttame(
    drawn: tuple[Lake, str], described: spec.Backbone
) -> None:
    lake, dataset = drawn
    train = sizes_of(lake, dataset, "train")
    backbone = load_backbone(described)
    shards = TrainingShards(lake, dataset, train, [], COMPUTE)
    batch = next(load_batches(lake, dataset, ["test-000000"], PLAIN, 4, 2))
    forward = forward_pass(backbone, batch)
    maps = []
    for method in ("ttame", "ptame"):
        explainer = REGISTRY[method](backbone, _settings(method, described))
        train_head(shards, TrainingOutput(lake, method, {"of": "equal"}), explainer, PAPER)
        explainer.use(load_head(lake, method, explainer))
        maps.append(explainer.attribute(forward, torch.tensor([[0, 3]] * 4)))
    assert torch.equal(*maps)
    heads = []
    for method in ("ttame", "ptame"):
        with lake.open(f"{method}/head.safetensors") as stream:
            heads.append(stream.read())
    assert heads[0] == heads[1]


def test_the_auxiliary_sees_images_its_own_way(described: spec.Backbone) -> None:
    view = {"input_size": (32, 48), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    other = described.model_copy(update={"preprocessing": spec.Preprocessing(**view)})
    explainer = REGISTRY["ptame"](black_box(), _settings("ptame", other))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = explainer.read(images, [])
        small = F.interpolate(images, (32, 48), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(view[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
        net = load_backbone(other).model
        expected = net.forward_intermediates((small - mean) / std, intermediates_only=True)
    for ours, theirs in zip(found, expected[-3:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["lcam_img", "lcam_fm"])
def test_shown_maps_are_of_the_one_convolution(method: str, drawn: tuple[Lake, str]) -> None:
    backbone = tiny_backbone()
    torch.manual_seed(2)
    explainer = REGISTRY[method](backbone)
    head = explainer.new_head("attention")
    weight, bias = head.fuser.weight.detach()[:, :, 0, 0], head.fuser.bias.detach()
    batch = next(load_batches(*drawn, ["test-000000"], PLAIN, 4, 2))
    forward = forward_pass(backbone, batch)
    targets = torch.tensor([[0, 3], [1, 3], [2, 3], [9, 3]])
    found = explainer.use(head).attribute(forward, targets)
    for i, row in enumerate(targets):
        for t, target in enumerate(row):
            class_map = torch.einsum("c,chw->hw", weight[target], forward.features[-1][i])
            expected = torch.sigmoid(class_map + bias[target])
            torch.testing.assert_close(found[i, t], expected, rtol=1e-4, atol=1e-5)


class _Killed(Exception):
    pass


@pytest.mark.parametrize("method", ["lcam_fm", "ptame"])
def test_interrupted_it_ends_the_same(
    method: str, drawn: tuple[Lake, str], described: spec.Backbone
) -> None:
    lake, dataset = drawn
    train, val = (sizes_of(lake, dataset, split) for split in ("train", "val"))
    settings = PAPER.model_copy(update={"epochs": 2, "checkpoint_steps": 2, "learning_rate": 0.05})

    def run(folder: str, die_at: int = 99) -> tuple[str, list]:
        def progress(done: int, total: int, text: str) -> None:
            if done >= die_at:
                raise _Killed

        explainer: Trained = REGISTRY[method](
            load_backbone(described), _settings(method, described)
        )
        shards = TrainingShards(lake, dataset, train, val, COMPUTE)
        output = TrainingOutput(lake, folder, {"of": 1})
        train_head(shards, output, explainer, settings, progress)
        with lake.open(f"{folder}/head.safetensors") as stream:
            digest = hashlib.sha256(stream.read()).hexdigest()
        return digest, lake.read_table(f"{folder}/history.parquet").to_pylist()

    expected = run(f"{method}-whole")
    for step in (3, 6):
        with pytest.raises(_Killed):
            run(f"{method}-{step}", step)
        assert run(f"{method}-{step}") == expected


# ---- settings and provenance ---------------------------------------------------------------------


def _audit(explainers: list, **more: object) -> spec.AuditSpec:
    return complete(
        spec.AuditSpec.model_validate(
            {
                "name": "a",
                "dataset": {"name": "drawn", "source": {"kind": "shapes"}},
                "backbones": more.pop("backbones", ["resnet18"]),
                "explainers": explainers,
                **more,
            }
        )
    )


def test_whose_training_setting_counts() -> None:
    audit = _audit(
        [
            "ttame",
            "lcam_img",
            {"lcam_fm": {"training": {"epochs": 3, "masking": "both"}}},
            {"tame": {"training": {"recipe": "paper"}}},
            {"ptame": {"training": {"recipe": "paper", "epochs": 2}}},
        ],
        training={"epochs": 7, "batch_size": 16, "lambda_area": 5.0},
    )
    ttame, lcam, own, tame, ptame = (training_of(audit.training, e) for e in audit.explainers)
    assert ttame == audit.training
    assert (lcam.epochs, lcam.batch_size, lcam.optimizer) == (7, 16, "adamw")  # the spec's
    assert (lcam.objective, lcam.masking, lcam.map) == ("cross_entropy", "raw", "class")
    assert (lcam.lambda_area, lcam.lambda_confidence) == (2.0, 1.5)  # the method's
    assert (own.epochs, own.masking, own.objective) == (3, "both", "cross_entropy")
    assert (tame.optimizer, tame.learning_rate, tame.epochs) == ("sgd", 1e-3, 8)
    assert (tame.masking, tame.batch_size) == ("raw", 16)
    assert (ptame.optimizer, ptame.learning_rate, ptame.epochs) == ("adamw", 1e-4, 2)
    assert (ptame.lambda_area, ptame.masking) == (0.839, "raw")
    again = spec.AuditSpec.model_validate(audit.model_dump(mode="json"))
    assert again == audit
    assert training_of(again.training, again.explainers[4]) == ptame


@pytest.mark.parametrize(
    ("explainer", "words"),
    [
        ({"lcam_img": {"training": {"epoch": 3}}}, "no setting epoch.*Did you mean epochs"),
        ({"lcam_img": {"training": {"epochs": -1}}}, "epochs: Input should be greater"),
        ({"ttame": {"train": {}}}, "ttame has no setting train.*Did you mean training"),
        ({"gradcam": {"training": {}}}, "gradcam has no setting training"),
        ({"ptame": {"auxiliary": {"model": "resnet18"}}}, "no weights"),
        ({"ptame": {"auxiliary": {"model": "resnet18", "fit": {}}}}, "not trained here"),
        (
            {"ptame": {"auxiliary": {"model": "resnet18", "pretrained": True, "taps": []}}},
            "must have taps",
        ),
    ],
)
def test_wrong_settings(explainer: dict, words: str) -> None:
    with pytest.raises((ValueError, UserError), match=words):
        _audit([explainer])


def test_shares_of_a_batch_of_its_own() -> None:
    odd = {"lcam_img": {"training": {"batch_size": 9}}}
    with pytest.raises(UserError, match="of lcam_img, 9, does not divide among 2"):
        _audit([odd], compute={"devices": 2})


def test_a_heads_provenance(
    drawn: tuple[Lake, str], described: spec.Backbone, tmp_path: Path
) -> None:
    backbone = described.model_dump() | {"name": "net"}
    auxiliary = _settings("ptame", described)

    def provenance(**own: dict) -> Provenance:
        explainers = [{name: settings} for name, settings in own.items()]
        audit = _audit(explainers, backbones=[backbone], training={"recipe": "paper"})
        return Provenance(audit, drawn[0])

    def made_from(found: Provenance, stage: str) -> list[dict]:
        (net,) = found.audit.backbones
        return [
            found.head(net, e) if stage == "head" else found.maps(net, e, "test-000000")
            for e in found.audit.explainers
        ]

    one = provenance(ttame={}, lcam_img={}, ptame=auxiliary)
    other = provenance(ttame={}, lcam_img={"training": {"epochs": 2}}, ptame=auxiliary)
    for stage in ("head", "maps"):
        before, after = made_from(one, stage), made_from(other, stage)
        assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]

    copy = tmp_path / "copy.safetensors"  # the same weights elsewhere, then others there
    copy.write_bytes(Path(str(described.checkpoint)).read_bytes())
    moved = {"auxiliary": described.model_dump() | {"checkpoint": str(copy)}}
    same = provenance(ttame={}, lcam_img={}, ptame=moved)
    assert made_from(same, "maps") == made_from(one, "maps")
    torch.manual_seed(9)
    save_file(timm.create_model("resnet10t", num_classes=10, **SMALL).state_dict(), copy)
    for stage in ("head", "maps"):
        before, after = made_from(one, stage), made_from(same, stage)
        assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False]

    backbone["head"] = str(copy)  # a given head is T-TAME's
    given = made_from(provenance(ttame={}, lcam_img={}, tame={}), "head")
    assert ["given" in head for head in given] == [True, False, False]
