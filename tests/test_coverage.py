"""What is said about architectures, and that it is checked for real."""

from __future__ import annotations

import pytest

from ttame_core.coverage import check, describe, find_architectures, random_backbone
from ttame_core.errors import UserError


@pytest.mark.parametrize("model", ["resnet10t", "test_vit", "test_convnext"])
def test_what_is_described_without_weights_is_what_the_real_network_has(model: str) -> None:
    found = describe(model)
    backbone = random_backbone(model)
    assert found.taps == backbone.taps
    assert found.map_size == backbone.map_size
    assert found.input_size == backbone.preprocessing.input_size
    assert found.parameters == sum(p.numel() for p in backbone.parameters())
    check(model)


def test_what_cannot_be_explained_is_said() -> None:
    assert find_architectures("resnet1?") == ["resnet18"]
    with pytest.raises(UserError, match="no architecture resnet5000"):
        find_architectures("resnet5000")
    with pytest.raises(UserError, match="no classifier"):
        describe("resnet101_clip_gap")
