"""Maps and scores of a shard, against one image at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import PLAIN, shard_all, tiny_backbone
from torch import Tensor

from ttame_core import spec
from ttame_core.backbones import Backbone, Outputs
from ttame_core.backbones.devices import place
from ttame_core.data.index import load_shards
from ttame_core.data.labels import UNKNOWN
from ttame_core.data.loader import load_batches
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY, Explainer, ForwardPass, forward_pass
from ttame_core.explainers.center import Center
from ttame_core.heads.attention import AttentionHead
from ttame_core.lake import Lake, fingerprint, maps_file, scores_file, shard_rows
from ttame_core.lake.families import schema_of
from ttame_core.lake.query.connection import connect
from ttame_core.lake.schemas import LOST
from ttame_core.metrics import REGISTRY as FAMILIES
from ttame_core.metrics import THRESHOLDS, contour_ious, energy_in_box, pointing_game
from ttame_core.perturbation.masking import min_max
from ttame_core.stages.evaluate import WantedScores, evaluate_shard
from ttame_core.stages.explain import (
    ALL,
    WantedMaps,
    choose_targets,
    explain_shard,
    read_maps,
    write_refusal,
)
from ttame_core.stages.provenance import Provenance
from ttame_core.stages.shard import StoredShard

COMPUTE = spec.Compute(device="cpu", batch_size=5, workers=2)
SHARD = "test-000000"


SOME = ("ttame", "gradcam", "random", "oracle")


def _explainers(backbone: Backbone) -> dict[str, Explainer]:
    torch.manual_seed(4)
    head = AttentionHead([t.channels for t in backbone.taps], 10, backbone.map_size)
    return {name: REGISTRY[name](backbone, None, head) for name in SOME}


def _maps(explainers: dict[str, Explainer], **images: int) -> list[WantedMaps]:
    return [WantedMaps(e, explainers[e], {"explainer": e}, images.get(e, ALL)) for e in explainers]


def _scores(explainers: Iterable[str], keep: list[float], **images: int) -> list[WantedScores]:
    families = [FAMILIES["confidence"]({"keep": keep}), FAMILIES["localization"]()]
    return [
        WantedScores(e, family, {"scores": e}, images.get(family.name, ALL))
        for e in explainers
        for family in families
    ]


def _explain(drawn: tuple[Lake, str], name: str, targets: object) -> tuple[Backbone, dict]:
    backbone = tiny_backbone()
    backbone.name = name
    explainers = _explainers(backbone)
    counted: list[int] = []
    explain_shard(
        StoredShard(*drawn, SHARD), backbone, _maps(explainers), targets, COMPUTE, counted.append
    )
    assert counted == [5, 10, 12]
    return backbone, explainers


def _evaluate(
    lake: Lake, dataset: str, shard: str, backbone: Backbone, wanted: list[WantedScores]
) -> None:
    makers = {s.explainer: lambda model: None for s in wanted}
    evaluate_shard(StoredShard(lake, dataset, shard), backbone, wanted, makers, COMPUTE)


@pytest.mark.parametrize(
    ("targets", "count"), [("predicted", 1), ("label", 1), ("top-3", 3), ([0, 9], 2)]
)
def test_a_row_per_image_and_target(drawn: tuple[Lake, str], targets: object, count: int) -> None:
    lake, dataset = drawn
    backbone, explainers = _explain(drawn, f"b{count}", targets)
    batch = next(load_batches(*drawn, [SHARD], PLAIN, 12, 2))
    forward = forward_pass(backbone, batch)
    probabilities = forward.logits.softmax(dim=1)
    wanted = choose_targets(forward.logits, batch.labels, targets, "b")
    for name, explainer in explainers.items():
        expected = min_max(explainer.attribute(forward, wanted))
        rows = list(read_maps(lake, maps_file(dataset, f"b{count}", name, SHARD)))
        assert len(rows) == 12 * count
        for number, (row, heat) in enumerate(rows):
            image, place = divmod(number, count)
            assert row["key"] == batch.keys[image]
            assert row["label"] == batch.labels[image, 0]
            assert row["predicted"] == probabilities[image].argmax()
            assert row["target"] == wanted[image, place]
            assert np.isclose(row["probability"], probabilities[image, row["target"]], atol=1e-5)
            assert heat.shape == (row["height"], row["width"]) == expected.shape[-2:]
            assert (heat - expected[image, place]).abs().max() < 2e-3  # float16, batch order
    if targets == "top-3":
        assert wanted[:, 0].tolist() == probabilities.argmax(dim=1).tolist()


def test_classes_that_do_not_exclude_each_other(drawn: tuple[Lake, str]) -> None:
    """Each class above one half has a map of its own and counts as predicted."""
    lake, dataset = drawn
    backbone = tiny_backbone()
    with torch.no_grad():
        backbone.model.fc.bias[:2] += 20  # two classes that all images have
        backbone.model.fc.bias[2:] -= 20
    backbone.outputs = Outputs("sigmoid")
    backbone.name = "many"
    explainers = {"gradcam": REGISTRY["gradcam"](backbone)}
    shard = StoredShard(*drawn, SHARD)
    explain_shard(shard, backbone, _maps(explainers), "predicted", COMPUTE, None)
    batch = next(load_batches(*drawn, [SHARD], PLAIN, 12, 2))
    p = forward_pass(backbone, batch).logits.sigmoid()
    rows = [row for row, _ in read_maps(lake, maps_file(dataset, "many", "gradcam", SHARD))]
    targets = {(row["key"], row["target"]) for row in rows}
    assert targets == {(key, target) for key in batch.keys for target in (0, 1)}
    for row in rows:
        assert row["predicted"] == row["target"]
        image = batch.keys.index(row["key"])
        assert np.isclose(row["probability"], p[image, row["target"]], atol=1e-5)


def test_a_threshold_of_ones_own(drawn: tuple[Lake, str]) -> None:
    """With above-P, each class above P has a map and counts as predicted."""
    lake, dataset = drawn
    backbone = tiny_backbone()
    backbone.outputs, backbone.name = Outputs("sigmoid"), "above"
    explainers = {"gradcam": REGISTRY["gradcam"](backbone)}
    explain_shard(StoredShard(*drawn, SHARD), backbone, _maps(explainers), "above-0.3", COMPUTE)
    (batch,) = load_batches(*drawn, [SHARD], PLAIN, 12, 2)
    p = forward_pass(backbone, batch).logits.sigmoid()
    expected = {
        (key, target)
        for key, row in zip(batch.keys, p, strict=True)
        for target in range(10)
        if row[target] > 0.3 or target == row.argmax()
    }
    rows = [row for row, _ in read_maps(lake, maps_file(dataset, "above", "gradcam", SHARD))]
    assert {(row["key"], row["target"]) for row in rows} == expected
    assert any(0.3 < row["probability"] < 0.5 for row in rows)
    assert all(row["predicted"] == row["target"] for row in rows)


def test_scores_are_those_of_each_image_alone(drawn: tuple[Lake, str]) -> None:
    lake, dataset = drawn
    backbone, explainers = _explain(drawn, "scored", "predicted")
    keep = [100.0, 15.0]
    _evaluate(*drawn, SHARD, backbone, _scores(explainers, keep))
    batch = next(load_batches(*drawn, [SHARD], PLAIN, 12, 2))
    for name in explainers:
        maps = {row["key"]: (row, heat) for row, heat in read_maps(
            lake, maps_file(dataset, "scored", name, SHARD))}  # fmt: skip
        found = lake.read_table(scores_file("confidence", dataset, "scored", name, SHARD))
        scores = {(row["key"], row["keep"]): row for row in found.to_pylist()}
        assert len(scores) == 24
        places = lake.read_table(scores_file("localization", dataset, "scored", name, SHARD))
        located = {row["key"]: row for row in places.to_pylist()}
        for i, key in enumerate(batch.keys):
            row, heat = maps[key]
            image = batch.images[i].numpy() / 255.0
            large = np.asarray(
                Image.fromarray(heat.numpy()).resize((64, 64), Image.Resampling.BILINEAR)
            ).astype(np.float64)
            for percentage in keep:
                level = np.percentile(large, 100 - percentage)
                mask = np.where(large >= level - 1e-7, large, 0)
                inputs = torch.from_numpy((image * mask - 0.5) / 0.25)[None].float()
                with torch.no_grad():
                    p_masked = backbone.model(inputs).softmax(dim=1)[0, row["target"]]
                    whole = torch.from_numpy((image - 0.5) / 0.25)[None].float()
                    p = backbone.model(whole).softmax(dim=1)[0, row["target"]]
                assert np.isclose(scores[key, percentage]["p"], p, atol=1e-5)
                assert np.isclose(scores[key, percentage]["p_masked"], p_masked, atol=1e-3)
            view, boxes = torch.from_numpy(large)[None].float(), [batch.boxes[i]]
            objects = batch.masks[i][None] > 0
            hit = pointing_game(view, objects, 15 * 64 / 224)
            assert located[key]["pointing_game"] == bool(hit)
            assert np.isclose(located[key]["energy_in_box"], energy_in_box(view, boxes), atol=1e-4)
            overlaps = contour_ious(view, boxes)[0][0, [int(255 * t) for t in THRESHOLDS]]
            assert np.allclose(located[key]["box_iou"], overlaps, atol=0.2)


def test_images_without_boxes_have_no_place(tmp_path, folder) -> None:
    lake = Lake(tmp_path / "lake")
    source = {"kind": "folder", "path": str(folder)}
    dataset = spec.Dataset(name="d", source=source, splits={"test": 1.0})
    shard_all(dataset, lake)
    (shard,) = [s.shard for s in load_shards(lake, "d") if s.samples]
    backbone = tiny_backbone()
    explainers = _explainers(backbone)
    explain_shard(StoredShard(lake, "d", shard), backbone, _maps(explainers), "predicted", COMPUTE)
    _evaluate(lake, "d", shard, backbone, _scores(explainers, [15.0]))
    rows = {
        (family, e): lake.parquet_rows(scores_file(family, "d", backbone.name, e, shard))
        for family in ("confidence", "localization")
        for e in explainers
    }
    assert rows["confidence", "ttame"] == 5
    assert rows["confidence", "oracle"] == 0  # without annotations it has no map
    assert rows["localization", "ttame"] == 0


def test_the_same_run_twice_gives_the_same_files(drawn: tuple[Lake, str]) -> None:
    lake, dataset = drawn
    contents = []
    for _ in range(2):
        _explain(drawn, "twice", "predicted")
        paths = [maps_file(dataset, "twice", e, SHARD) for e in SOME]
        contents.append([lake.read_table(path).to_pylist() for path in paths])
    assert contents[0] == contents[1]


def test_only_the_first_images_are_explained_and_scored(drawn: tuple[Lake, str]) -> None:
    lake, dataset = drawn
    whole, explainers = _explain(drawn, "whole", "top-3")
    backbone = tiny_backbone()
    backbone.name = "limited"
    counted: list[int] = []
    some = _maps({e: explainers[e] for e in ("gradcam", "random")}, gradcam=7, random=0)
    explain_shard(StoredShard(*drawn, SHARD), backbone, some, "top-3", COMPUTE, counted.append)
    assert counted == [5, 10]  # no image beyond is decoded
    every = list(read_maps(lake, maps_file(dataset, whole.name, "gradcam", SHARD)))
    found = list(read_maps(lake, maps_file(dataset, "limited", "gradcam", SHARD)))
    assert [row for row, _ in found] == [row for row, _ in every[: 7 * 3]]
    assert lake.parquet_rows(maps_file(dataset, "limited", "random", SHARD)) == 0
    _evaluate(*drawn, SHARD, backbone, _scores(["gradcam", "random"], [15.0, 50.0], confidence=4))

    def rows(family: str, explainer: str) -> int:
        return lake.parquet_rows(scores_file(family, dataset, "limited", explainer, SHARD))

    assert rows("confidence", "gradcam") == 4 * 3 * 2
    assert rows("localization", "gradcam") == 7 * 3
    assert rows("confidence", "random") == 0


def test_what_a_map_costs(drawn: tuple[Lake, str]) -> None:
    lake, dataset = drawn
    _explain(drawn, "costs", "top-3")
    passes = {}
    for e in SOME:
        rows = lake.read_table(scores_file("cost", dataset, "costs", e, SHARD)).to_pylist()
        assert len(rows) == 12 * 3
        assert all(row["seconds"] > 0 for row in rows)
        passes[e] = {(row["forward_passes"], row["backward_passes"]) for row in rows}
    assert passes == {
        "ttame": {(1, 0)},
        "gradcam": {(2, 1)},
        "random": {(1, 0)},
        "oracle": {(1, 0)},
    }


def test_a_refusal_is_a_file_without_rows_and_with_the_reason(drawn: tuple[Lake, str]) -> None:
    lake, dataset = drawn
    reason = "no `tap` of “net” has a gradient"
    write_refusal(StoredShard(lake, dataset, SHARD), "refusing", "gradcam", {"a": 1}, reason)
    assert lake.is_current(maps_file(dataset, "refusing", "gradcam", SHARD), {"a": 1})
    with connect(lake) as db:
        found = db.sql("FROM refusals WHERE backbone = 'refusing'").fetchall()
    assert found == [(dataset, "refusing", "gradcam", reason)]


def test_wrong_classes() -> None:
    logits, labels = torch.randn(2, 10), torch.tensor([[1, 2], [UNKNOWN, UNKNOWN]])
    with pytest.raises(UserError, match="a label that net knows"):
        choose_targets(logits, labels, "label", "net")
    with pytest.raises(UserError, match=r"class 10.*0 to 9"):
        choose_targets(logits, labels, [1, 10], "net")
    with pytest.raises(UserError, match="top-11"):
        choose_targets(logits, labels, "top-11", "net")


def test_probabilities_are_of_a_float32_pass(drawn: tuple[Lake, str]) -> None:
    lake, dataset = drawn
    exact = tiny_backbone()
    low = place(tiny_backbone(), COMPUTE.model_copy(update={"precision": "bfloat16"}))
    low.name = "low"
    wanted = [WantedMaps("gradcam", REGISTRY["gradcam"](low), {"precision": "bfloat16"})]
    explain_shard(StoredShard(lake, dataset, SHARD), low, wanted, "predicted", COMPUTE)
    scored = [WantedScores("gradcam", FAMILIES["confidence"](), {"scores": "low"})]
    makers = {"gradcam": REGISTRY["gradcam"]}
    evaluate_shard(StoredShard(lake, dataset, SHARD), low, scored, makers, COMPUTE)
    rows = [row for row, _ in read_maps(lake, maps_file(dataset, "low", "gradcam", SHARD))]
    (batch,) = load_batches(lake, dataset, [SHARD], PLAIN, 12, 2)
    with torch.no_grad():
        p = exact(exact.normalise(batch.float_images())).softmax(dim=1).max(dim=1).values.tolist()
    assert [row["probability"] for row in rows] == pytest.approx(p, abs=1e-6)
    table = lake.read_table(scores_file("confidence", dataset, "low", "gradcam", SHARD)).to_pylist()
    assert [row["p"] for row in table if row["keep"] == 100] == pytest.approx(p, abs=1e-6)


def test_maps_are_of_the_number_format_that_was_used(
    drawn: tuple[Lake, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, dataset = drawn

    def made_from(precision: str, fast: bool) -> dict:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": fast})
        audit = spec.AuditSpec(
            name="formats",
            dataset={"name": dataset, "source": {"kind": "shapes"}},
            backbones=[{"model": "resnet10t", "pretrained": True}],
            explainers=["gradcam"],
            compute={"device": "cpu", "precision": precision},
        )
        return Provenance(audit, lake).maps(audit.backbones[0], audit.explainers[0], SHARD)

    assert made_from("auto", fast=False) == made_from("float32", fast=False)
    assert made_from("auto", fast=True) == made_from("bfloat16", fast=True)
    assert made_from("auto", fast=True) != made_from("auto", fast=False)


def test_scores_of_the_maps_before_go_when_maps_are_made_again(drawn: tuple[Lake, str]) -> None:
    lake, dataset = drawn
    backbone = tiny_backbone()
    backbone.name = "again"
    shard, maps = StoredShard(*drawn, SHARD), _maps({"center": REGISTRY["center"](backbone)})
    explain_shard(shard, backbone, maps, "predicted", COMPUTE)
    path = scores_file("shape", dataset, "again", "center", SHARD)
    for made_from, stays in (({"explainer": "center"}, True), ({"explainer": "other"}, False)):
        scored = {"maps": fingerprint(made_from)}
        lake.write_parquet(path, [], schema_of("shape"), scored)
        explain_shard(shard, backbone, maps, "predicted", COMPUTE)
        assert lake.exists(path) == stays


def test_maps_that_are_not_finite_are_counted(
    drawn: tuple[Lake, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, dataset = drawn
    backbone = tiny_backbone()
    backbone.name = "gappy"
    center, attribute = REGISTRY["center"](backbone), Center.attribute

    def gappy(self: Center, forward: ForwardPass, targets: Tensor) -> Tensor:
        maps = attribute(self, forward, targets).clone()
        maps[0] = torch.inf
        return maps

    monkeypatch.setattr(Center, "attribute", gappy)
    path = maps_file(dataset, "gappy", "center", SHARD)
    counted = []
    for may_lack in (False, True):
        monkeypatch.setattr(Center, "may_lack_maps", may_lack)
        explain_shard(
            StoredShard(*drawn, SHARD), backbone, _maps({"center": center}), "top-2", COMPUTE
        )
        counted.append(int(lake.metadata(path).get(LOST, 0)))
    batches = -(-lake.parquet_rows(shard_rows(dataset, SHARD)) // COMPUTE.batch_size)
    assert counted == [2 * batches, 0]


def test_a_classifier_that_gives_no_numbers_is_told_of(drawn: tuple[Lake, str]) -> None:
    backbone = tiny_backbone()
    backbone.name = "broken"
    maps = _maps({"center": REGISTRY["center"](backbone)})
    next(backbone.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(UserError, match="backbone broken gives logits that are not finite"):
        explain_shard(StoredShard(*drawn, SHARD), backbone, maps, "predicted", COMPUTE)
    assert drawn[0].glob("maps/*/backbone=broken/*/*") == []
