"""Randomisation of classifiers from the logits down, and what it does to maps."""

from __future__ import annotations

import pytest
import timm
import torch
from scipy import stats
from scoring import SHARD, Brightness, maker, score
from tiny import PLAIN, TINY_VIT, tiny_backbone
from torch import Tensor

from ttame_core.backbones import Backbone
from ttame_core.data.loader import load_batches
from ttame_core.explainers import ForwardPass, NotApplicable, forward_pass
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import run_query
from ttame_core.metrics import REGISTRY
from ttame_core.metrics.sanity import cascade, randomised_head, weights_from_the_logits
from ttame_core.perturbation.masking import min_max


def _vit() -> Backbone:
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=10, **TINY_VIT)
    return Backbone(net, "vit", PLAIN)


def _names(backbone: Backbone) -> list[str]:
    return [layer[0][0] for layer in weights_from_the_logits(backbone)]


def test_layers_from_the_logits_down() -> None:
    names = _names(tiny_backbone())
    assert names[0] == "fc.weight"
    assert names[1].startswith("layer4.")
    assert names[-1] == "conv1.0.weight"
    folded = tiny_backbone().fold()
    assert _names(folded)[0] == "fc.weight"
    names = _names(_vit())
    assert names[:2] == ["head.weight", "norm.weight"]
    assert names[-1] == ".cls_token"  # with pos_embed, of the model itself


@pytest.mark.parametrize("make", [tiny_backbone, lambda: tiny_backbone().fold(), _vit])
def test_ever_more_weights_are_shuffled(make) -> None:
    backbone = make()
    before = {name: t.clone() for name, t in backbone.model.state_dict().items()}
    steps = cascade(backbone, 4, seed=0)
    assert [depth for depth, _ in steps] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert all(torch.equal(t, before[n]) for n, t in backbone.model.state_dict().items())
    last = weights_from_the_logits(backbone)[0]
    changed: set[str] = set()
    for depth, copy in steps:
        state = copy.model.state_dict()
        now = {n for n, t in state.items() if not torch.equal(t, before[n])}
        assert now >= changed
        if depth == 0:
            assert now == {name for name, t in last if t.unique().numel() > 1}
        changed = now
        for name, values in state.items():
            assert torch.equal(values.flatten().sort().values, before[name].flatten().sort().values)
            shared = values.data_ptr() == backbone.model.state_dict()[name].data_ptr()
            assert shared or name in changed or values.unique().numel() <= 1
    constant = {n for n, t in before.items() if t.unique().numel() <= 1}
    assert changed | constant == set(before)
    again = cascade(backbone, 2, seed=0)[1][1].model.state_dict()
    assert all(torch.equal(t, again[n]) for n, t in steps[-1][1].model.state_dict().items())
    other = cascade(backbone, 2, seed=1)[1][1].model.state_dict()
    assert not all(torch.equal(t, other[n]) for n, t in again.items())
    images = backbone.normalise(torch.rand(2, 3, 64, 64))
    with torch.no_grad():
        assert not torch.allclose(steps[0][1](images), backbone(images), atol=1e-3)
        assert torch.isfinite(steps[-1][1](images)).all()


class Delicate(Brightness):
    """Explains the one classifier alone."""

    name = "delicate"
    only: Backbone

    def __init__(self, backbone: Backbone, *_: object) -> None:
        super().__init__(backbone)
        if backbone is not self.only:
            raise NotApplicable("another classifier")


class Fragile(Brightness):
    """Finds out late that it cannot explain another classifier."""

    name = "fragile"
    only: Backbone

    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        if self.backbone is not self.only:
            raise NotApplicable("another classifier")
        return super().attribute(forward, targets)


def test_rows_and_their_sql(drawn: tuple[Lake, str]) -> None:
    backbone = tiny_backbone()
    backbone.name = "sane"
    Delicate.only = Fragile.only = backbone
    makers = {name: maker(name, backbone) for name in ("ttame", "gradcam", "random")}
    makers |= {"delicate": Delicate, "fragile": Fragile}
    rows = score(drawn, backbone, makers, [REGISTRY["sanity"]({"depths": 3})])
    count = {name: len(rows["sanity", name]) for name in makers}
    assert count == {"ttame": 48, "gradcam": 36, "random": 36, "delicate": 0, "fragile": 0}
    for row in rows["sanity", "random"]:  # it does not even look at the classifier
        assert row["rank_correlation"] == pytest.approx(1)
        assert row["ssim"] == pytest.approx(1)
    by_step: dict[tuple[str, float], list[float]] = {}
    for row in rows["sanity", "ttame"]:
        by_step.setdefault((row["randomised"], row["depth"]), []).append(row["rank_correlation"])
    assert set(by_step) == {("classifier", 0), ("classifier", 0.5), ("classifier", 1), ("head", 1)}
    assert min(by_step["classifier", 0]) > 0.99  # the head reads features, not logits
    for step in (("classifier", 1.0), ("head", 1.0)):
        assert sum(by_step[step]) / 12 < 0.9

    batch = next(load_batches(*drawn, [SHARD], PLAIN, 12, 2))
    wrecked = cascade(backbone, 3, seed=0)[1][1]
    halfway = [row for row in rows["sanity", "gradcam"] if row["depth"] == 0.5]
    targets = torch.tensor([[row["target"]] for row in halfway])
    before, after = (
        min_max(makers["gradcam"](b).attribute(forward_pass(b, batch), targets))[:, 0]
        for b in (backbone, wrecked)
    )
    for row, a, b in zip(halfway, before.half().numpy(), after.half().numpy(), strict=True):
        if a.min() < a.max() and b.min() < b.max():
            expected = stats.spearmanr(a.ravel(), b.ravel()).statistic
            assert row["rank_correlation"] == pytest.approx(expected, abs=0.02)
        else:
            assert row["rank_correlation"] == 0

    board = run_query(
        drawn[0], "FROM leaderboard WHERE backbone = 'sane' AND explainer = 'ttame'"
    ).to_pylist()
    values = {row["metric"]: row["value"] for row in board}
    for metric, step in (("@0", 0.0), ("@50", 0.5), ("@100", 1.0)):
        expected = sum(by_step["classifier", step]) / 12
        assert values[f"sanity_correlation{metric}"] == pytest.approx(expected)
    assert values["sanity_correlation/head"] == pytest.approx(sum(by_step["head", 1]) / 12)
    assert {"sanity_ssim@0", "sanity_ssim@100", "sanity_ssim/head"} <= set(values)


def test_a_randomised_head_is_another() -> None:
    backbone = tiny_backbone()
    head = maker("ttame", backbone)(backbone).head
    other = randomised_head(head, 0)
    for (name, a), (_, b) in zip(head.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values), name
        assert not torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_script_has_no_rows_of_a_randomised_classifier(drawn: tuple[Lake, str]) -> None:
    """Its weights cannot be exchanged."""
    traced = torch.jit.trace(tiny_backbone().model.eval(), torch.rand(1, 3, 64, 64))
    script = Backbone(traced, "script", PLAIN, [])
    rows = score(drawn, script, {"random": maker("random", script)}, [REGISTRY["sanity"]()])
    assert rows["sanity", "random"] == []
