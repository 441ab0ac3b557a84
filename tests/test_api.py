"""From Python, without a lake: the same numbers as the pipeline's, and sentences for mistakes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from metrics.scoring import SHARD, score
from tiny import PLAIN, sizes_of, small_resnet, tiny_backbone
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import ttame_core as tt
from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.data.loader import Batch, load_batches
from ttame_core.explainers import REGISTRY, Explainer, ForwardPass
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.files import load_head
from ttame_core.lake import Lake, maps_file
from ttame_core.lake.query.connection import connect
from ttame_core.metrics import REGISTRY as FAMILIES
from ttame_core.stages.explain import read_maps
from ttame_core.training.head import train_head
from ttame_core.training.orders import TrainingOutput, TrainingShards

COMPUTE = spec.Compute(device="cpu", batch_size=8, workers=2)
SETTINGS = spec.Training(recipe="occluded", epochs=2, min_steps=0, batch_size=8)


class _Shards:
    """The images of a lake in the order of its own training: (uint8 images, labels)."""

    def __init__(self, drawn: tuple[Lake, str], backbone: Backbone) -> None:
        self.drawn, self.view, self.epoch = drawn, backbone.preprocessing, 0
        self.shards = sizes_of(*drawn, "train")

    def __len__(self) -> int:
        return sum(samples for _, samples in self.shards) // 8

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = (SETTINGS.seed, self.epoch)
        self.epoch += 1
        names = [name for name, _ in self.shards]
        for batch in load_batches(*self.drawn, names, self.view, 8, 2, shuffle=order):
            yield batch.images, batch.labels


@pytest.fixture(scope="module")
def test_batch(drawn: tuple[Lake, str]) -> Batch:
    (batch,) = load_batches(*drawn, [SHARD], PLAIN, 32, 2)
    return batch


def test_a_head_trained_on_a_loader_is_that_of_the_pipeline(
    drawn: tuple[Lake, str], tmp_path: Path
) -> None:
    backbone = tiny_backbone()
    loader = _Shards(drawn, backbone)
    said: list[tuple[int, int, str]] = []
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    head = tt.train_head(
        backbone,
        loader,
        recipe="occluded",
        epochs=2,
        batch_size=8,
        progress=lambda *x: said.append(x),
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert said[-1][:2] == (10, 10)
    shards = TrainingShards(*drawn, loader.shards, [], COMPUTE)
    output = TrainingOutput(drawn[0], "by the pipeline", {"of": "test"})
    nothing_kept = SETTINGS.model_copy(update={"keep_gib": 0})  # a loader may augment its images
    train_head(shards, output, TTame(backbone), nothing_kept)
    expected = load_head(drawn[0], "by the pipeline", TTame(backbone))
    assert not head.training
    for name, value in expected.state_dict().items():
        assert torch.equal(head.state_dict()[name], value), name

    tt.save_head(head, tmp_path / "head.safetensors")
    again = tt.load_head(tmp_path / "head.safetensors", backbone)
    from_lake = tt.load_head(drawn[0].path("by the pipeline/head.safetensors"), backbone)
    images = torch.rand(2, 3, 64, 64)
    maps = [tt.explain(backbone, images, head=h) for h in (head, again, from_lake)]
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_an_ordinary_data_loader(dtype: torch.dtype) -> None:
    backbone = tiny_backbone()
    images = torch.randint(0, 256, (10, 3, 64, 64), dtype=torch.uint8)
    given = images if dtype == torch.uint8 else images / 255
    labelled = DataLoader(TensorDataset(given, torch.zeros(10)), batch_size=4)
    bare = DataLoader(given, batch_size=4)  # type: ignore[arg-type]
    heads = [tt.train_head(backbone, loader, epochs=1) for loader in (labelled, bare)]
    few = tt.train_head(backbone, bare, min_steps=7, epochs=1)  # 3 epochs of 3 batches
    state = [head.state_dict() for head in (*heads, few)]
    assert all(torch.equal(value, state[1][name]) for name, value in state[0].items())
    assert state[0]["bns.0.num_batches_tracked"] == 3
    assert state[2]["bns.0.num_batches_tracked"] == 9


EVERY = ("confidence", "localization", "shape", "road", "curves", "adcc", "robustness", "sanity")
SMALL = {
    "road": {"removed": [20, 80]},
    "curves": {"steps": 4},
    "robustness": {"samples": 2},
    "sanity": {"depths": 2},
}


def test_maps_and_scores_are_those_of_the_pipeline(
    drawn: tuple[Lake, str], test_batch: Batch
) -> None:
    lake, dataset = drawn
    backbone = tiny_backbone()
    backbone.name = "tensors"
    head = TTame(backbone).new_head()

    def make(model: Backbone) -> TTame:
        return TTame(model).use(head)

    families = [FAMILIES[name](SMALL.get(name)) for name in EVERY]
    score(drawn, backbone, {"ttame": make}, families)  # in batches of 5
    path = maps_file(dataset, backbone.name, "ttame", SHARD)
    expected = {row["key"]: found for row, found in read_maps(lake, path)}

    about = {"keys": test_batch.keys, "boxes": test_batch.boxes, "masks": test_batch.masks}
    maps = tt.explain(backbone, test_batch.images, "ttame", head=head, batch_size=5, **about)
    assert maps.shape == (12, *backbone.map_size)
    for key, found in zip(test_batch.keys, maps.half().float(), strict=True):
        torch.testing.assert_close(found, expected[key], atol=1e-3, rtol=0)

    explainer = tt.make_explainer(backbone, "ttame", head=head)
    metrics = [{name: SMALL[name]} if name in SMALL else name for name in EVERY]
    stored = torch.stack([expected[key] for key in test_batch.keys])
    scores = tt.evaluate(
        backbone,
        test_batch.images,
        stored,
        metrics,
        explainer=explainer,
        batch_size=5,
        **about,
    )
    with connect(lake) as db:
        rows = db.sql(
            "SELECT metric, key, value FROM metric_values WHERE backbone = 'tensors' "
            "AND explainer = 'ttame' AND metric NOT IN "
            "('seconds', 'forward_passes', 'backward_passes', 'accuracy')"
        ).fetchall()
    assert {metric for metric, _, _ in rows} == scores.keys()
    assert {"AD@15", "IC@100", "ROAD", "insertion", "ADCC", "box_iou", "sparseness"} <= set(scores)
    position = {key: i for i, key in enumerate(test_batch.keys)}
    for metric, key, value in rows:
        # Maps that the lake has made again are rounded to half precision, those here are not.
        again = metric.startswith(("max_sensitivity", "sanity", "ADCC", "coherency"))
        limit = 5e-3 if again else 1e-3
        assert scores[metric][position[key]].item() == pytest.approx(value, rel=limit, abs=limit)


def test_targets(test_batch: Batch) -> None:
    backbone = tiny_backbone()
    images = test_batch.images
    with torch.no_grad():
        logits = backbone(backbone.normalise(images / 255))
    best = logits.argmax(dim=1)
    plain = tt.explain(backbone, images, "gradcam")
    torch.testing.assert_close(tt.explain(backbone, images, "gradcam", targets=best), plain)
    two = tt.explain(backbone, images, "gradcam", targets="top-2")
    assert two.shape == (12, 2, *plain.shape[1:])
    torch.testing.assert_close(two[:, 0], plain)
    listed = tt.explain(backbone, images, "gradcam", targets=[3, 4, 5])
    per_image = torch.tensor([[3, 4, 5]]).expand(12, 3)
    torch.testing.assert_close(
        tt.explain(backbone, images, "gradcam", targets=per_image, batch_size=5), listed
    )
    others = tt.evaluate(backbone, images, listed[:, 0], targets=torch.full((12,), 3))
    p = logits.softmax(dim=1)[:, 3]
    whole = tt.evaluate(backbone, images, torch.ones(12, 8, 8), targets=torch.full((12,), 3))
    assert whole["AD@100"].abs().max() < 1e-3  # nothing is masked, nothing is lost
    assert others["AD@15"].shape == p.shape


def test_floors_and_ceilings(test_batch: Batch) -> None:
    backbone = tiny_backbone()
    maps = tt.explain(backbone, test_batch.images, "oracle", masks=test_batch.masks)
    scores = tt.evaluate(
        backbone, test_batch.images, maps, ["localization"], masks=test_batch.masks
    )
    assert scores["pointing_game"].nanmean() == 100
    nothing = tt.explain(backbone, test_batch.images, "oracle")
    assert nothing.isnan().all()
    assert tt.evaluate(backbone, test_batch.images, nothing) == {}


def test_a_module_stays_as_it_was() -> None:
    net = small_resnet().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    view = {"input_size": (64, 64), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    backbone = tt.load_backbone(net, device="cpu", preprocessing=view)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert backbone.name == "ResNet"
    images = torch.rand(2, 3, 64, 64)
    expected = net.eval()((images - 0.5) / 0.25)
    torch.testing.assert_close(backbone(backbone.normalise(images)), expected, atol=1e-4, rtol=1e-4)
    assert tt.explain(backbone, images, "gradcam").shape[0] == 2
    spec.trust("tiny:small_resnet")
    section = spec.Backbone(model="tiny:small_resnet")
    assert tt.load_backbone(section, device="cpu").num_classes == 10


def test_mistakes_are_one_sentence(test_batch: Batch) -> None:
    backbone = tiny_backbone()
    images = test_batch.images
    for call, words in (
        (lambda: tt.load_backbone("resnet10t"), "has no weights"),
        (lambda: tt.load_backbone("resnet10t", pretraned=True), "Did you mean pretrained"),
        (lambda: tt.explain(backbone, images, "grad-cam"), "Did you mean gradcam"),
        (lambda: tt.explain(backbone, images), "needs a trained head"),
        (lambda: tt.explain(backbone, images[..., :32], "gradcam"), "takes B×3×64×64"),
        (lambda: tt.explain(backbone, images - 0.5, "gradcam"), "not normalised yet"),
        (lambda: tt.explain(backbone, images, "gradcam", targets=[10]), "classes 0 to 9"),
        (lambda: tt.explain(backbone, images, "gradcam", targets=torch.tensor([1])), "12 images"),
        (lambda: tt.explain(backbone, images, "gradcam", targets="label"), "targets=labels"),
        (lambda: tt.explain(backbone, images, "rise", settings={"mask": 1}), "no setting mask"),
        (lambda: tt.explain(backbone, images, "random", keys=["a"] * 12), "same key"),
        (lambda: tt.evaluate(backbone, images, torch.rand(12, 8)), "must be 12×h×w"),
        (lambda: tt.evaluate(backbone, images, torch.rand(12, 8, 8), ["adcc"]), "explainer again"),
        (lambda: tt.evaluate(backbone, images, torch.rand(12, 8, 8), ["AD"]), "unknown metric AD"),
        (lambda: tt.train_head(backbone, iter([])), "has no length"),
        (lambda: tt.train_head(backbone, []), "no batches"),
        (lambda: tt.train_head(backbone, [images], "gradcam"), "no head to train"),
        (lambda: tt.train_head(backbone, [images], epoch=3), "Did you mean epochs"),
        (lambda: tt.load_head("nowhere", backbone), "cannot read the head nowhere"),
    ):
        with pytest.raises(tt.UserError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_importing_it_is_light() -> None:
    code = (
        "import sys, ttame_core as tt; assert 'train_head' in dir(tt); "
        "heavy = {'torch', 'duckdb', 'pyarrow', 'pydantic'} & set(sys.modules); "
        "assert not heavy, heavy; tt.Lake; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute explian"):
        _ = tt.explian
    assert {"ttame", "gradcam"} <= set(REGISTRY)
    assert all(getattr(tt, name).__doc__ for name in tt.__all__)


def test_a_batch_in_which_nothing_is_explained(tiny: Backbone) -> None:
    torch.manual_seed(0)
    images, maps = torch.rand(4, 3, 64, 64), torch.rand(4, 2, 2)
    maps[:2] = torch.nan
    explainer = tt.make_explainer(tiny, "gradcam")
    families = ["confidence", "road", {"curves": {"steps": 2}}, "adcc", "robustness"]
    found = tt.evaluate(tiny, images, maps, families, explainer=explainer, batch_size=2)
    assert {"AD@15", "ROAD", "insertion", "ADCC", "max_sensitivity"} <= found.keys()
    for values in found.values():
        assert values.isnan().tolist() == [True, True, False, False]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_images_of_a_batch_are_divided_once(
    tiny: Backbone, test_batch: Batch, dtype: torch.dtype
) -> None:
    class Brightness(Explainer):
        name = "brightness"

        def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
            images = forward.batch.float_images(forward.images.device)
            seen.append(images.cpu())
            return images.mean(dim=1, keepdim=True).expand(-1, targets.shape[1], -1, -1)

    seen: list[Tensor] = []
    images = test_batch.images if dtype == torch.uint8 else test_batch.float_images()
    tt.explain(tiny, images, Brightness(tiny))
    assert torch.equal(torch.cat(seen), test_batch.float_images())
