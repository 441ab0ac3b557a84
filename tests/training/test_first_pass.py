"""First passes: what is kept is what a pass gives, and a training needs one pass for an image."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from tiny import sizes_of, tiny_backbone, tiny_vit

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.data.loader import Batch, load_batches
from ttame_core.errors import UserError
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.files import load_head
from ttame_core.lake import Lake
from ttame_core.training import first_pass as module
from ttame_core.training.first_pass import first_pass, keep_passes
from ttame_core.training.head import train_head
from ttame_core.training.orders import TrainingOutput, TrainingShards

COMPUTE = spec.Compute(device="cpu", batch_size=8, workers=2)


def _batches(drawn: tuple[Lake, str], backbone: Backbone, **order: object) -> Iterator[Batch]:
    shards = [name for name, _ in sizes_of(*drawn, "train")]
    return load_batches(*drawn, shards, backbone.preprocessing, 8, 2, **order)


@pytest.mark.parametrize("tokens", [False, True])
def test_what_is_kept_is_what_a_pass_gives(drawn: tuple[Lake, str], tokens: bool) -> None:
    backbone = tiny_vit() if tokens else tiny_backbone()
    explainer = TTame(backbone)
    images = sum(samples for _, samples in sizes_of(*drawn, "train"))
    seen: list[int] = []
    kept = keep_passes(explainer, _batches(drawn, backbone), images, 1, seen.append)
    assert kept is not None
    assert seen[-1] == images
    for batch in _batches(drawn, backbone, shuffle=(3, 1)):
        found, expected = kept.of(batch), first_pass(explainer, batch.float_images())
        assert torch.equal(found.images, expected.images)
        torch.testing.assert_close(found.logits, expected.logits)
        assert len(found.features) == len(expected.features) == len(backbone.taps)
        for own, whole in zip(found.features, expected.features, strict=True):
            assert own.dtype is torch.float32
            torch.testing.assert_close(own, whole, rtol=1e-3, atol=1e-4)


def _trained(
    drawn: tuple[Lake, str], folder: str, monkeypatch: pytest.MonkeyPatch, **settings: object
) -> tuple[dict[str, torch.Tensor], Counter]:
    """Train three epochs; return the head's weights, and the images of its kinds of passes."""
    lake, dataset = drawn
    backbone = tiny_backbone()
    passes: Counter = Counter()

    def count(name: str) -> None:
        pass_of = getattr(backbone, name)

        def counted(inputs: torch.Tensor) -> object:
            passes[name] += len(inputs)
            return pass_of(inputs)

        monkeypatch.setattr(backbone, name, counted)

    count("features")
    count("forward")
    section = spec.Training(recipe="paper", epochs=3, batch_size=8, **settings)
    explainer = TTame(backbone)
    shards = TrainingShards(lake, dataset, sizes_of(*drawn, "train"), [], COMPUTE)
    train_head(shards, TrainingOutput(lake, folder, {}), explainer, section)
    head = load_head(lake, folder, explainer)
    return {name: value.clone() for name, value in head.state_dict().items()}, passes


def test_each_image_has_one_first_pass(
    drawn: tuple[Lake, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sum(samples for _, samples in sizes_of(*drawn, "train"))
    kept, passes = _trained(drawn, "kept", monkeypatch)
    assert passes == {"features": images, "forward": 3 * images}
    for keep_gib, given_up in ((0, 0), (1e-6, 8)):  # after a batch it is clear that all is too much
        again, passes = _trained(drawn, f"kept-{given_up}", monkeypatch, keep_gib=keep_gib)
        assert passes == {"features": 3 * images + given_up, "forward": 3 * images}
        for name, value in kept.items():
            torch.testing.assert_close(again[name], value, rtol=1e-2, atol=1e-3)


def test_features_that_half_precision_cannot_hold_are_not_kept(drawn: tuple[Lake, str]) -> None:
    backbone = tiny_backbone()
    batches = list(_batches(drawn, backbone))
    explainer = TTame(backbone)
    assert keep_passes(explainer, batches, 40, 1) is not None
    with torch.no_grad():
        backbone.model.layer4[0].bn2.weight.fill_(1e6)
    assert keep_passes(explainer, batches, 40, 1) is None


def test_a_full_disk_is_named(drawn: tuple[Lake, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> object:
        return open("/dev/full", "w+b")

    monkeypatch.setattr(module.tempfile, "TemporaryFile", full)
    backbone = tiny_backbone()
    with pytest.raises(UserError, match=r"No space left.*TMPDIR.*keep_gib: 0") as error:
        keep_passes(TTame(backbone), _batches(drawn, backbone), 40, 1)
    assert tempfile.gettempdir() in str(error.value)
