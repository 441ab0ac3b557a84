"""The vectors by which classifiers tell classes apart."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from ttame_core.backbones.class_vectors import LENGTH, ClassVectors, class_vectors


def test_rows_are_centred_and_scaled() -> None:
    vectors = ClassVectors(torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 3.0]]))
    # less the mean row (1, 1): (2, −1), (−1, −1), (−1, 2), by the sum of their magnitudes
    by_hand = torch.tensor([[2 / 3, -1 / 3, 1], [-0.5, -0.5, 1], [-1 / 3, 2 / 3, 1]])
    expected = LENGTH * by_hand
    assert torch.allclose(vectors(None), expected)
    assert torch.allclose(vectors(torch.tensor([[2, 0]])), expected[[2, 0]][None])
    assert vectors.size == 3


def test_equal_rows_are_no_division_by_zero() -> None:
    assert ClassVectors(torch.ones(4, 3))(None).tolist() == [[0, 0, 0, LENGTH]] * 4


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        ("resnet10t", "fc"),
        ("test_vit", "head"),
        ("squeezenet", "classifier.1"),
        ("tf_efficientnet_lite0", "classifier"),
    ],
)
def test_they_are_the_layer_that_gives_the_logits(model: str, layer: str) -> None:
    torch.manual_seed(0)
    if model == "squeezenet":
        from torchvision.models import squeezenet1_1

        net = squeezenet1_1(num_classes=7)
    else:
        net = timm.create_model(model, num_classes=7)
    size = 160 if model == "test_vit" else 64
    found = class_vectors(net.eval(), torch.randn(1, 3, size, size), 7)
    weight = net.get_submodule(layer).weight
    assert found.weight.data_ptr() == weight.data_ptr(), "the classifier's own, not a copy"
    assert found.size == weight.shape[1] + 1


def test_a_sum_of_two_classifiers_has_unit_vectors() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(12, 3), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.a(x.flatten(1)) + self.b(x.flatten(1))) / 2

    found = class_vectors(Two(), torch.randn(1, 3, 2, 2), 3)
    assert torch.equal(found.weight, torch.eye(3))
