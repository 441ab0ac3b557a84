"""Training: interrupted and resumed it ends the same; the backbone never moves."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import TINY_VIT, sizes_of, tiny_backbone
from torch import multiprocessing
from torch.distributed.elastic.utils.distributed import get_free_port

from ttame_core import spec
from ttame_core.data.loader import load_batches
from ttame_core.errors import UserError
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.attention import AttentionHead, SharedHead
from ttame_core.heads.files import load_head
from ttame_core.lake import Lake
from ttame_core.training.first_pass import first_pass
from ttame_core.training.fit import augment, fit_backbone, occlude
from ttame_core.training.head import (
    few_steps,
    masking_mode,
    optimiser,
    others_classes,
    smooth_noise,
    train_head,
    training_losses,
    with_enough_epochs,
)
from ttame_core.training.losses import area_loss, variation_loss
from ttame_core.training.orders import TrainingOutput, TrainingShards

COMPUTE = spec.Compute(device="cpu", batch_size=8, workers=2)
SETTINGS = spec.Training(
    recipe="paper", epochs=2, batch_size=8, checkpoint_steps=2, learning_rate=0.05
)


class _Killed(Exception):
    pass


def _train(
    drawn: tuple[Lake, str],
    folder: str,
    settings: spec.Training = SETTINGS,
    progress: Callable[..., None] | None = None,
) -> None:
    train, val = sizes_of(*drawn, "train"), sizes_of(*drawn, "val")
    lake, dataset = drawn
    backbone = tiny_backbone()
    shards = TrainingShards(lake, dataset, train, val, COMPUTE)
    output = TrainingOutput(lake, folder, {"of": "test"})
    train_head(shards, output, TTame(backbone), settings, progress)


def _content(lake: Lake, folder: str) -> tuple[str, list]:
    with lake.open(f"{folder}/head.safetensors") as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    return digest, lake.read_table(f"{folder}/history.parquet").to_pylist()


def _die_at(step: int) -> Callable[..., None]:
    def progress(done: int, total: int, text: str) -> None:
        if done >= step:
            raise _Killed

    return progress


def _member(place: int, address: str, folder: str) -> None:
    """One of two processes with one image each: write what class the image is given."""
    from accelerate import Accelerator

    where, port = address.split(":")
    os.environ |= {"RANK": str(place), "LOCAL_RANK": str(place), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": where, "MASTER_PORT": port}
    accelerator = Accelerator(cpu=True)
    given = others_classes(torch.tensor([10 + place]), accelerator)
    Path(folder, str(place)).write_text(str(given.tolist()))
    accelerator.end_training()


@pytest.mark.long
def test_permuted_labels_of_shares_of_one_image_are_those_of_the_other(tmp_path: Path) -> None:
    address = f"127.0.0.1:{get_free_port()}"
    multiprocessing.spawn(_member, (address, str(tmp_path)), nprocs=2)
    assert [(tmp_path / str(place)).read_text() for place in (0, 1)] == ["[11]", "[10]"]


@pytest.mark.parametrize("shares", [1, 2, 4])
def test_shares_are_given_what_the_whole_batch_is_given(shares: int) -> None:
    batch = torch.arange(8)
    gathered = torch.cat([batch[place::shares] for place in range(shares)])
    for place in range(shares):
        accelerator = SimpleNamespace(
            process_index=place, num_processes=shares, gather=lambda share: gathered
        )
        given = others_classes(batch[place::shares], accelerator)
        assert given.tolist() == others_classes(batch)[place::shares].tolist()


def test_labels_of_a_batch_of_one_image_cannot_be_permuted() -> None:
    with pytest.raises(UserError, match="batches of two or more"):
        others_classes(torch.tensor([3]))


def test_permuted_labels_are_those_of_other_images() -> None:
    backbone = tiny_backbone()
    torch.manual_seed(1)
    images = torch.rand(4, 3, 64, 64)
    with torch.no_grad():  # what all images have in common goes, so that their classes differ
        backbone.model.fc.bias -= backbone(backbone.normalise(images)).mean(dim=0)
    explainer = TTame(backbone)
    head = explainer.new_head()
    settings = spec.Training(labels="permuted")
    found = training_losses(explainer, head, first_pass(explainer, images), settings)
    logits, features = backbone.features(backbone.normalise(images))
    truth = logits.argmax(dim=1)
    assert not torch.equal(truth, truth.roll(1))
    own, others = (
        variation_loss(torch.sigmoid(head(features, labels))[:, 0])
        for labels in (truth, truth.roll(1))
    )
    assert torch.isclose(found.variation, others)
    assert not torch.isclose(found.variation, own)


def test_noise_is_added_to_the_class_maps() -> None:
    backbone = tiny_backbone()
    torch.manual_seed(1)
    images = torch.rand(4, 3, 64, 64)
    explainer = TTame(backbone)
    head = explainer.new_head().eval()
    settings = spec.Training(noise=4.0)
    noise = smooth_noise(settings, 4, 0, 100, backbone.map_size)
    found = training_losses(explainer, head, first_pass(explainer, images), settings, noise)
    logits, features = backbone.features(backbone.normalise(images))
    attention = torch.sigmoid(head(features, logits.argmax(dim=1)) + noise)[:, 0]
    assert torch.isclose(found.variation, variation_loss(attention))
    assert torch.isclose(found.area, area_loss(attention))


def test_noise_fades_out_over_a_quarter_of_the_steps() -> None:
    settings = spec.Training(noise=3.0)
    cells = [smooth_noise(settings, 512, step, 80, (4, 4)) for step in range(80)]
    assert all(noise is None for noise in cells[20:])
    for step, noise in enumerate(cells[:20]):
        assert noise.shape == (512, 1, 4, 4)
        assert noise.std().item() == pytest.approx(3 * (1 - step / 20), rel=0.05)
    assert not torch.equal(cells[0] / 20, cells[1] / 19)  # drawn anew in every step
    first = smooth_noise(settings, 512, 0, 80, (4, 4))
    assert torch.equal(first, cells[0])
    for seed in (1, -1, 2**62 + 1):
        another = settings.model_copy(update={"seed": seed})
        assert not torch.equal(first, smooth_noise(another, 512, 0, 80, (4, 4)))
    large = smooth_noise(settings, 512, 0, 80, (16, 12))
    neighbours = (large[..., 1:] - large[..., :-1]).std()
    assert neighbours < large.std() / 2  # smooth
    without = settings.model_copy(update={"noise": 0.0})
    assert smooth_noise(without, 512, 0, 80, (4, 4)) is None


@pytest.mark.parametrize("noise", [0.0, 4.0])
def test_interrupted_anywhere_it_ends_the_same(drawn: tuple[Lake, str], noise: float) -> None:
    lake, _ = drawn
    settings = SETTINGS.model_copy(update={"noise": noise})
    _train(drawn, f"whole{noise}", settings)
    expected = _content(lake, f"whole{noise}")
    terms = ("loss", "variation", "area", "cross_entropy")
    for term in terms:
        values = {row["step"]: row["value"] for row in expected[1] if row["term"] == term}
        assert list(values) == list(range(1, 11))
        assert all(value > 0 for value in values.values())
    metrics = {row["term"] for row in expected[1]} - set(terms)
    assert metrics == {f"{m}@{k}" for m in ("AD", "IC") for k in (100, 50, 15)}
    for step in (1, 3, 4, 5, 6, 9, 10):
        folder = f"cut{step}-{noise}"
        with pytest.raises(_Killed):
            _train(drawn, folder, settings, _die_at(step))
        assert not lake.exists(f"{folder}/history.parquet")
        _train(drawn, folder, settings)
        assert _content(lake, folder) == expected, step
        assert lake.glob(f"{folder}/*.pt") == []


def test_a_checkpoint_of_another_training_is_not_taken(drawn: tuple[Lake, str]) -> None:
    lake, _ = drawn
    with pytest.raises(_Killed):
        _train(drawn, "other", progress=_die_at(5))
    train = sizes_of(*drawn, "train")
    backbone = tiny_backbone()
    shards = TrainingShards(*drawn, train, [], COMPUTE)
    for folder in ("other", "fresh"):
        output = TrainingOutput(lake, folder, {"of": "something else"})
        train_head(shards, output, TTame(backbone), SETTINGS)
    assert _content(lake, "other") == _content(lake, "fresh")


def test_only_the_head_learns(drawn: tuple[Lake, str]) -> None:
    backbone = tiny_backbone()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    head = AttentionHead([t.channels for t in backbone.taps], 10, backbone.map_size).train()
    optimizer = optimiser(head, SETTINGS)
    start = {name: value.clone() for name, value in head.state_dict().items()}
    batch = next(load_batches(*drawn, ["train-000000"], backbone.preprocessing, 8, 2))
    explainer = TTame(backbone)
    whole = first_pass(explainer, batch.float_images())
    losses = training_losses(explainer, head, whole, SETTINGS)
    losses.loss.backward()
    optimizer.step()
    assert all(p.grad is None for p in backbone.parameters())
    assert all(torch.equal(before[n], v) for n, v in backbone.state_dict().items())
    moved = [n for n, v in head.state_dict().items() if not torch.equal(start[n], v)]
    assert {"convs.0.weight", "bns.2.weight", "fuser.weight", "fuser.bias"} <= set(moved)
    parts = (0.01 * losses.variation, 2 * losses.area, 1.5 * losses.confidence)
    assert torch.isclose(losses.loss, sum(parts))


@pytest.mark.parametrize("objective", ["cross_entropy", "confidence"])
def test_gradients_equal_those_of_the_textbook_step(objective: str) -> None:
    """All classes computed, the model truth's channel taken, masked, and forwarded again."""
    from torch.nn import functional as F

    backbone = tiny_backbone()
    torch.manual_seed(2)
    head = AttentionHead([t.channels for t in backbone.taps], 10, backbone.map_size).train()
    images = torch.rand(8, 3, 64, 64)
    settings = SETTINGS.model_copy(update={"objective": objective})
    explainer = TTame(backbone)
    whole = first_pass(explainer, images)
    training_losses(explainer, head, whole, settings).loss.backward()
    found = [p.grad.clone() for p in head.parameters()]
    head.zero_grad()
    logits, features = backbone.features((images - 0.5) / 0.25)
    truth = logits.argmax(dim=1)
    branches = [
        F.interpolate(F.relu(bn(conv(x)) + x), size=backbone.map_size, mode="bilinear")
        for conv, bn, x in zip(head.convs, head.bns, features, strict=True)
    ]
    attention = torch.sigmoid(head.fuser(torch.cat(branches, 1)))[torch.arange(8), truth]
    mask = F.interpolate(attention[:, None], size=(64, 64), mode="bilinear")
    masked = backbone((images * mask - 0.5) / 0.25)
    a = attention
    edges = (a[:, 0], a[:, -1], a[:, :, 0], a[:, :, -1])
    variation = (
        (a[:, 1:] - a[:, :-1]).pow(2).sum()
        + (a[:, :, 1:] - a[:, :, :-1]).pow(2).sum()
        + 0.3 * sum(e.pow(2).sum() for e in edges)
    ) / 16
    area = (a + 0.0005).pow(0.3).mean()
    if objective == "cross_entropy":
        confidence = F.cross_entropy(masked, truth)
    else:
        p, q = (x.double().softmax(1)[torch.arange(8), truth] for x in (logits, masked))
        ratio = p / (1 - p) * (1 - q) / q  # of the odds
        confidence = (1 + ratio).log().mean().float()
    (0.01 * variation + 2 * area + 1.5 * confidence).backward()
    for ours, parameter in zip(found, head.parameters(), strict=True):
        assert torch.allclose(ours, parameter.grad, atol=1e-5, rtol=1e-4)


def test_weight_decay_on_weights_only() -> None:
    head = AttentionHead([4], 3, (8, 8))
    weights, biases = optimiser(head, spec.Training()).param_groups
    assert weights["weight_decay"] == 5e-4
    assert biases["weight_decay"] == 0
    assert len(weights["params"]) == 3
    assert len(biases["params"]) == 3


def test_masking_follows_the_family() -> None:
    paper = spec.Training(recipe="paper")
    assert masking_mode(tiny_backbone(), paper) == "raw"
    vit = tiny_backbone("vit_tiny_patch16_224", **TINY_VIT)
    assert masking_mode(vit, paper) == "normalised"
    assert masking_mode(vit, spec.Training(recipe="paper", masking="raw")) == "raw"
    assert masking_mode(vit, spec.Training()) == "both"


def test_what_cannot_be_trained(drawn: tuple[Lake, str]) -> None:
    with pytest.raises(UserError, match="less than one batch of 64"):
        _train(drawn, "x", spec.Training(batch_size=64))
    with pytest.raises(UserError, match=r"lower training\.learning_rate"):
        _train(drawn, "x", SETTINGS.model_copy(update={"learning_rate": 1e30}))


def test_a_trained_head_can_be_used(drawn: tuple[Lake, str]) -> None:
    lake, _ = drawn
    _train(drawn, "used")
    backbone = tiny_backbone()
    head = load_head(lake, "used", TTame(backbone))
    assert not head.training
    assert head.shown == "class"
    _train(drawn, "shows attention", SETTINGS.model_copy(update={"map": "attention"}))
    shows = load_head(lake, "shows attention", TTame(backbone))
    features = [torch.rand(2, t.channels, t.height, t.width) for t in backbone.taps]
    targets = torch.tensor([3, 4])
    expected = torch.sigmoid(head.fold()(features, targets))
    torch.testing.assert_close(shows.fold()(features, targets), expected)
    TTame(backbone, None, head)
    with pytest.raises(UserError, match="ttame train"):
        load_head(lake, "nowhere", TTame(backbone))
    with pytest.raises(UserError, match="does not fit"):
        load_head(lake, "used", TTame(tiny_backbone("vit_tiny_patch16_224", **TINY_VIT)))


def test_a_warning_where_the_published_recipe_has_too_few_steps() -> None:
    shards = [("train-000000", 3000)]
    paper = spec.Training(recipe="paper")
    assert "has 744 steps" in (few_steps(paper, shards) or "")
    assert few_steps(spec.Training(), shards) is None
    assert few_steps(paper, [("train-000000", 1_281_167)]) is None


def test_validations_are_spread_over_the_epochs(drawn: tuple[Lake, str]) -> None:
    lake, _ = drawn
    _train(drawn, "long", SETTINGS.model_copy(update={"epochs": 19}))
    rows = lake.read_table("long/history.parquet").to_pylist()
    found = [row["epoch"] for row in rows if row["term"] == "AD@15"]
    assert found == [2, 5, 8, 11, 14, 17, 18]


def test_small_data_sets_get_more_epochs() -> None:
    settings = spec.Training(epochs=4, min_steps=400)
    for samples, epochs in ((32_000, 4), (3_200, 4), (3_199, 5), (740, 18), (0, 400)):
        scaled, batches = with_enough_epochs(settings, [("train-000000", samples)])
        assert (scaled.epochs, batches) == (epochs, samples // 32)
        assert with_enough_epochs(scaled, [("train-000000", samples)]) == (scaled, batches)
    paper, _ = with_enough_epochs(spec.Training(recipe="paper"), [("train-000000", 32)])
    assert paper.epochs == 8
    for recipe, steps in (("whole", 150), ("occluded", 800)):
        scaled, _ = with_enough_epochs(spec.Training(recipe=recipe), [("train-000000", 32)])
        assert scaled.epochs == steps


def test_a_head_without_a_step_is_its_start(drawn: tuple[Lake, str]) -> None:
    settings = spec.Training(recipe="whole", min_steps=0, batch_size=8)
    _train(drawn, "start", settings)
    lake, _ = drawn
    history = lake.read_table("start/history.parquet").to_pylist()
    assert {row["term"].split("@")[0] for row in history} == {"AD", "IC"}
    assert {row["step"] for row in history} == {0}
    explainer = TTame(tiny_backbone())
    head = load_head(lake, "start", explainer)
    assert isinstance(head, SharedHead)
    assert head.matrix.abs().max() > 0
    _train(drawn, "trained", settings.model_copy(update={"epochs": 2}))
    assert not torch.equal(load_head(lake, "trained", explainer).matrix, head.matrix)


def test_shared_heads_interrupted_end_the_same(drawn: tuple[Lake, str]) -> None:
    settings = spec.Training(
        recipe="whole", epochs=2, min_steps=0, batch_size=8, checkpoint_steps=2
    )
    _train(drawn, "whole", settings)
    with pytest.raises(_Killed):
        _train(drawn, "cut", settings, _die_at(3))
    _train(drawn, "cut", settings)
    assert _content(drawn[0], "cut") == _content(drawn[0], "whole")


def test_a_weight_holds_the_rows_of_all_classes_near_their_start(drawn: tuple[Lake, str]) -> None:
    lake, _ = drawn
    _train(drawn, "begun", spec.Training(recipe="whole", batch_size=8, min_steps=0))
    ends: dict[float, float] = {}
    for weight in (0.0, 3.0, 1e4):
        settings = spec.Training(recipe="whole", batch_size=8, epochs=5, lambda_start=weight)
        _train(drawn, f"held{weight:g}", settings.model_copy(update={"min_steps": 0}))
        start, end = (
            load_head(lake, name, TTame(tiny_backbone())) for name in ("begun", f"held{weight:g}")
        )
        assert isinstance(start, SharedHead)
        assert isinstance(end, SharedHead)
        moved = end.vectors(None) @ (end.matrix - start.matrix)
        ends[weight] = float(moved.norm() / (start.vectors(None) @ start.matrix).norm())
    assert ends[1e4] < 0.5 * ends[3.0] < 0.5 * ends[0.0]
    terms = {row["term"] for row in lake.read_table("held3/history.parquet").to_pylist()}
    assert "distance" in terms
    history = lake.read_table("held0/history.parquet").to_pylist()
    assert "distance" not in {row["term"] for row in history}


def test_rows_have_no_start() -> None:
    with pytest.raises(ValueError, match="fusion: rows has none: give it epochs or min_steps"):
        spec.Training(fusion="rows", min_steps=0)


FIT = spec.Backbone(
    model="resnet10t",
    name="fitted",
    args={"channels": (8, 16, 24, 32), "stem_width": 8},
    preprocessing={"input_size": (64, 64)},
    fit={"epochs": 3, "batch_size": 8},
)


def _fit(drawn: tuple[Lake, str], folder: str, progress: Callable | None = None) -> None:
    lake, dataset = drawn
    train, val = sizes_of(*drawn, "train"), sizes_of(*drawn, "val")
    shards = TrainingShards(lake, dataset, train, val, COMPUTE)
    output = TrainingOutput(lake, folder, "x")
    fit_backbone(shards, output, FIT, 10, torch.device("cpu"), progress)


def test_fitting_interrupted_ends_the_same(drawn: tuple[Lake, str], tmp_path: Path) -> None:
    lake, _ = drawn
    _fit(drawn, "fit")
    with lake.open("fit/weights.safetensors") as stream:
        expected = stream.read()
    history = lake.read_table("fit/history.parquet").to_pylist()
    for term in ("loss", "cross_entropy", "accuracy"):
        rows = [row for row in history if row["term"] == term]
        assert [row["epoch"] for row in rows] == [0, 1, 2]
        assert all(row["value"] >= 0 for row in rows)
    for step in (3, 7, 13):
        with pytest.raises(_Killed):
            _fit(drawn, f"fit{step}", _die_at(step))
        _fit(drawn, f"fit{step}")
        with lake.open(f"fit{step}/weights.safetensors") as stream:
            assert stream.read() == expected
        assert lake.read_table(f"fit{step}/history.parquet").to_pylist() == history


def test_occlusion_blackens_all_but_the_objects() -> None:
    images = torch.full((64, 3, 32, 32), 0.5)
    objects = torch.zeros(64, 1, 32, 32)
    objects[:, :, 12:20, 12:20] = 1
    generator = torch.Generator().manual_seed(0)
    alone = occlude(images, objects, 0.0, generator, objects_only=True)
    shares = (alone[:, 0] > 0).float().mean(dim=(1, 2))
    assert ((shares > 0.05) & (shares < 0.42)).all()
    middle = alone[:, 0, 15:17, 15:17].amax(dim=(1, 2))
    assert (middle > 0.3).all()
    assert torch.equal(occlude(images, objects, 0.0, generator), images)
    half = occlude(images, objects, 0.5, generator)
    untouched = (half == images).all(dim=3).all(dim=2).all(dim=1).float().mean()
    assert 0.3 < untouched < 0.7
    without = occlude(images, torch.zeros_like(objects), 0.0, generator, objects_only=True)
    assert torch.equal(without, images)  # nothing is known of where the objects are


def test_augmentation_moves_objects_with_the_picture() -> None:
    torch.manual_seed(0)
    objects = torch.zeros(16, 1, 32, 32)
    objects[:, :, 4:16, 8:24] = 1
    images = objects.expand(-1, 3, -1, -1) * 0.8 + 0.1
    fit = spec.Fit(vertical_flip=True)
    moved, where = augment(images, objects, fit, torch.Generator().manual_seed(1))
    assert moved.min() >= 0
    assert moved.max() <= 1
    for picture, mask in zip(moved[:, 0], where[:, 0], strict=True):
        bright = picture > (picture.max() + picture.min()) / 2
        both = (bright & (mask > 0)).sum() / (bright | (mask > 0)).sum()
        assert both > 0.9
