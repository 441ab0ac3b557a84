"""Max-sensitivity by hand, and over a shard against one image at a time."""

from __future__ import annotations

import pytest
import torch
from scoring import SHARD, Brightness, Constant, maker, score
from tiny import PLAIN

from ttame_core.backbones import Backbone
from ttame_core.data.loader import load_batches
from ttame_core.explainers import Explainer, ForwardPass
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import run_query
from ttame_core.metrics import REGISTRY, relative_change
from ttame_core.metrics.robustness import perturbations
from ttame_core.perturbation.masking import min_max


def test_relative_change_by_hand() -> None:
    maps = torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]])
    others = torch.tensor([[[3.0, 3.0]], [[1.0, 0.0]], [[0.0, 0.0]], [[1.0, 0.0]]])
    assert relative_change(maps, others).tolist() == pytest.approx([0.2, 0, 0, torch.inf])


def test_noise_depends_on_the_key_and_the_seed_alone() -> None:
    both = perturbations(["a", "b"], (3, 8, 8), "0/1")
    assert torch.equal(both[1], perturbations(["b"], (3, 8, 8), "0/1")[0])
    assert not torch.equal(both[1], perturbations(["b"], (3, 8, 8), "0/2")[0])
    assert not torch.equal(both[0], both[1])
    assert both.abs().max() <= 1
    assert both.abs().mean().item() == pytest.approx(0.5, abs=0.05)


def test_rows_and_their_sql(drawn: tuple[Lake, str], tiny: Backbone) -> None:
    makers = {"brightness": Brightness, "constant": Constant, "random": maker("random", tiny)}
    family = REGISTRY["robustness"]({"samples": 3, "radius": 0.05})
    rows = score(drawn, tiny, makers, [family])
    for name in ("constant", "random"):  # whatever the image is
        assert [row["max_sensitivity"] for row in rows["robustness", name]] == [0] * 12
    batch = next(load_batches(*drawn, [SHARD], PLAIN, 12, 2))
    explainer = Brightness(tiny)
    for i, row in enumerate(rows["robustness", "brightness"]):
        image = batch.float_images()[i : i + 1]
        target = torch.tensor([[row["target"]]])

        def explain(image: torch.Tensor, target: torch.Tensor = target) -> torch.Tensor:
            with torch.no_grad():
                logits = tiny(tiny.normalise(image))
            return min_max(explainer.attribute(ForwardPass(None, image, logits, []), target))

        changes = []
        for sample in range(3):
            noise = perturbations([row["key"]], (3, 64, 64), f"0/{sample}")
            moved = (image + 0.05 * noise).clamp(0, 1)
            assert (moved - image).abs().max() <= 0.05 + 1e-6
            changes.append((explain(moved) - explain(image)).norm() / explain(image).norm())
        assert row["max_sensitivity"] == pytest.approx(max(changes).item(), abs=2e-3)
    found = run_query(
        drawn[0],
        f"SELECT value FROM leaderboard WHERE backbone = '{tiny.name}' "
        "AND metric = 'max_sensitivity' AND explainer = 'brightness'",
    ).to_pylist()
    values = [row["max_sensitivity"] for row in rows["robustness", "brightness"]]
    assert found[0]["value"] == pytest.approx(sum(values) / 12)


class Blind(Explainer):
    """The same map for every image, though it is asked for each; no format has its values."""

    name = "blind"

    def attribute(self, forward: ForwardPass, targets: torch.Tensor) -> torch.Tensor:
        values = torch.rand(8, 8, generator=torch.Generator().manual_seed(3))
        return values.expand(*targets.shape, 8, 8)


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_a_map_that_does_not_change_is_not_sensitive(
    drawn: tuple[Lake, str], tiny: Backbone, dtype: str
) -> None:
    families = [REGISTRY["robustness"]({"samples": 2}), REGISTRY["adcc"]()]
    rows = score(drawn, tiny, {"blind": Blind}, families, dtype=dtype)
    assert [row["max_sensitivity"] for row in rows["robustness", "blind"]] == [0] * 12
    assert [row["coherency"] for row in rows["adcc", "blind"]] == [1] * 12


def test_batches_make_no_difference(drawn: tuple[Lake, str], tiny: Backbone) -> None:
    family = REGISTRY["robustness"]({"samples": 2})
    made: list[Backbone] = []

    def gradcam(model: Backbone) -> Explainer:
        made.append(model)
        return maker("gradcam", tiny)(model)

    makers = {"gradcam": gradcam}
    found = [
        [row["max_sensitivity"] for row in score(drawn, tiny, makers, [family], size, targets)[
            "robustness", "gradcam"]]
        for size, targets in ((3, "top-2"), (12, "top-2"))
    ]  # fmt: skip
    assert len(found[0]) == 24
    assert found[0] == pytest.approx(found[1], abs=5e-3)
    assert max(found[0]) > 0
    assert len(made) == 4  # for maps and for scores, not for each batch
