"""Every explainer against an independent reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny import PLAIN, tiny_backbone

from ttame_core.backbones import Backbone
from ttame_core.data.loader import Batch, load_batches
from ttame_core.explainers import REGISTRY, ForwardPass, forward_pass
from ttame_core.heads.attention import AttentionHead
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import connect
from ttame_core.perturbation.masking import resize


@pytest.fixture
def batch(drawn: tuple[Lake, str]) -> Batch:
    return next(load_batches(*drawn, ["test-000000"], PLAIN, 4, 2))


def test_registry() -> None:
    assert {"ttame", "gradcam", "random", "oracle"} <= set(REGISTRY)
    assert all(cls.name == name for name, cls in REGISTRY.items())
    assert REGISTRY["ttame"].needs_head
    assert REGISTRY["oracle"].needs_annotations


def test_ttame_is_the_heads_class_map(batch: Batch) -> None:
    backbone = tiny_backbone()
    torch.manual_seed(5)
    head = AttentionHead([t.channels for t in backbone.taps], 10, backbone.map_size)
    for bn in head.bns:
        torch.nn.init.normal_(bn.running_mean)
    forward = forward_pass(backbone, batch)
    targets = torch.tensor([[0, 3], [1, 3], [2, 3], [9, 3]])
    found = REGISTRY["ttame"](backbone, head=head).attribute(forward, targets)
    with torch.no_grad():
        every = head.eval()(forward.features)
    expected = torch.stack([every[i, row] for i, row in enumerate(targets)])
    assert torch.allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="trained head"):
        REGISTRY["ttame"](backbone).attribute(forward, targets)


def test_random_is_the_same_for_the_same_key_and_target(batch: Batch, tiny: Backbone) -> None:
    random = REGISTRY["random"](tiny)
    forward = forward_pass(tiny, batch)
    targets = torch.tensor([[0, 1]] * 4)
    first, again = random.attribute(forward, targets), random.attribute(forward, targets)
    assert torch.equal(first, again)
    assert first.shape == (4, 2, *tiny.map_size)
    flat = first.flatten(0, 1).flatten(1)
    assert len(torch.unique(flat, dim=0)) == 8
    assert 0.4 < first.mean() < 0.6


def test_oracle_is_highest_on_the_objects(batch: Batch, tiny: Backbone) -> None:
    maps = REGISTRY["oracle"](tiny).attribute(forward_pass(tiny, batch), torch.zeros(4, 1).long())
    large = resize(maps, (64, 64))[:, 0]
    for heat, mask in zip(large, batch.masks, strict=True):
        assert heat[mask > 0].mean() > 5 * heat[mask == 0].mean()
        assert mask.flatten()[heat.argmax()] > 0
    bare = Batch(batch.keys, batch.images, batch.labels, [torch.zeros(0, 4)] * 4, [None] * 4)
    none = REGISTRY["oracle"](tiny).attribute(forward_pass(tiny, bare), torch.zeros(4, 1).long())
    assert none.isnan().all()


def test_center_is_a_gaussian_at_the_middle(batch: Batch, tiny: Backbone) -> None:
    maps = REGISTRY["center"](tiny).attribute(forward_pass(tiny, batch), torch.zeros(4, 2).long())
    height, width = tiny.map_size
    rows, columns = np.mgrid[:height, :width]
    across, down = (columns + 0.5) / width - 0.5, (rows + 0.5) / height - 0.5
    expected = np.exp(-(across**2 + down**2) / (2 * 0.25**2))
    assert maps.shape == (4, 2, height, width)
    assert np.allclose(maps.numpy(), expected, atol=1e-6)


def test_edges_are_scipys_sobel_of_the_luminance(batch: Batch, tiny: Backbone) -> None:
    small = Batch(batch.keys, batch.images[..., :48, :40], batch.labels, batch.boxes, batch.masks)
    forward = ForwardPass(small, small.float_images(), torch.zeros(4, 10), [])
    maps = REGISTRY["edges"](tiny).attribute(forward, torch.zeros(4, 2).long())
    assert maps.shape == (4, 2, 48, 40)
    for image, heat in zip(small.float_images().numpy(), maps[:, 1].numpy(), strict=True):
        luminance = np.tensordot([0.2989, 0.587, 0.114], image, axes=1)
        slopes = [ndimage.sobel(luminance, axis=a, mode="mirror") for a in (0, 1)]
        expected = ndimage.gaussian_filter(np.hypot(*slopes), 1, mode="mirror", radius=3)
        assert np.allclose(heat, expected, atol=1e-4)
        assert expected.max() > 0.1
    whole = forward_pass(tiny, batch)
    large = REGISTRY["edges"](tiny).attribute(whole, torch.zeros(4, 1).long())
    assert large.shape == (4, 1, 56, 56)  # of 64×64 pixels


def test_yardsticks_are_what_their_names_told_before(drawn: tuple[Lake, str]) -> None:
    with connect(drawn[0]) as db:
        for name, explainer in REGISTRY.items():
            told = db.execute("SELECT named_role(?)", [name]).fetchone()
            assert told == ({"method": name, "role": explainer.role, "control_of": None},)
