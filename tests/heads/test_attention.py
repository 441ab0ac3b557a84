"""The class-selective, folded head equals the textbook head."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from ttame_core.backbones.class_vectors import ClassVectors
from ttame_core.backbones.taps import map_size
from ttame_core.heads.attention import AttentionHead, SharedHead

cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**16),
        "batch": st.integers(1, 3),
        "classes": st.integers(2, 12),
        "targets": st.integers(1, 4),
        "taps": st.lists(
            st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12)),
            min_size=1,
            max_size=4,
        ),
    }
)


def _textbook(head: AttentionHead, features: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Every branch upsampled, concatenated, and fused to all classes (T-TAME, section III-B)."""
    branches = [
        F.interpolate(torch.relu(bn(conv(x)) + x), size=size, mode="bilinear", align_corners=False)
        for conv, bn, x in zip(head.convs, head.bns, features, strict=True)
    ]
    return head.fuser(torch.cat(branches, dim=1))


def _case(case: dict) -> tuple[AttentionHead, list[Tensor], Tensor]:
    torch.manual_seed(case["seed"])
    taps = case["taps"]
    size = map_size([(h, w) for _, h, w in taps])
    head = AttentionHead([c for c, _, _ in taps], case["classes"], size)
    for bn in head.bns:
        nn.init.uniform_(bn.weight, 0.5, 2)
        nn.init.normal_(bn.bias)
        nn.init.normal_(bn.running_mean)
        nn.init.uniform_(bn.running_var, 0.3, 3)
    features = [torch.randn(case["batch"], *tap) for tap in taps]
    targets = torch.randint(case["classes"], (case["batch"], case["targets"]))
    return head, features, targets


def _select(maps: Tensor, targets: Tensor) -> Tensor:
    index = targets[:, :, None, None].expand(-1, -1, *maps.shape[2:])
    return maps.gather(1, index)


def _assert_near(found: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max().clamp(min=1e-3)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * scale


@settings(max_examples=60, deadline=None)
@given(cases)
def test_equal_to_the_textbook_in_evaluation(case: dict) -> None:
    head, features, targets = _case(case)
    head.eval()
    expected = _textbook(head, features, head.map_size)
    folded = head.fold()
    with torch.no_grad():
        for module in (head, folded):
            _assert_near(module(features), expected)
            _assert_near(module(features, targets), _select(expected, targets))
            _assert_near(module(features, targets[:, 0]), _select(expected, targets[:, :1]))


@settings(max_examples=25, deadline=None)
@given(cases.filter(lambda c: c["batch"] > 1 and all(h * w > 1 for _, h, w in c["taps"])))
def test_equal_in_training_with_gradients_and_statistics(case: dict) -> None:
    head, features, targets = _case(case)
    twin, _, _ = _case(case)
    twin.load_state_dict(head.state_dict())
    head.train(), twin.train()
    weights = torch.randn(case["batch"], case["targets"], *head.map_size)
    (torch.sigmoid(head(features, targets)) * weights).sum().backward()
    expected = _select(_textbook(twin, features, head.map_size), targets)
    (torch.sigmoid(expected) * weights).sum().backward()
    scale = max(parameter.grad.abs().max() for parameter in twin.parameters()).clamp(min=1)
    for (name, found), wanted in zip(head.named_parameters(), twin.parameters(), strict=True):
        assert (found.grad - wanted.grad).abs().max() <= 1e-5 * scale, name
    for found, wanted in zip(head.buffers(), twin.buffers(), strict=True):
        assert torch.allclose(found.float(), wanted.float(), atol=1e-6)


def test_names_of_the_published_checkpoints() -> None:
    names = set(AttentionHead([4, 8], 3, (7, 7)).state_dict())
    assert {"convs.0.weight", "convs.1.bias", "bns.0.running_var", "fuser.weight"} <= names


def test_maps_are_at_most_56_pixels() -> None:
    assert map_size([(28, 28), (14, 14), (7, 7)]) == (28, 28)
    assert map_size([(112, 80), (56, 40)]) == (56, 56)


@pytest.mark.parametrize("folded", [False, True])
def test_nothing_of_unused_classes_is_computed(folded: bool) -> None:
    """With a target per image no tensor has the size of all classes at the map's resolution."""
    classes, size = 500, (16, 16)
    head = AttentionHead([6, 6], classes, size).eval()
    module = head.fold() if folded else head
    features = [torch.randn(2, 6, 16, 16), torch.randn(2, 6, 8, 8)]
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in weights:
                largest = max(largest, out.numel())
            return out

    weights = {t.untyped_storage().data_ptr() for t in module.state_dict().values()}
    with torch.no_grad(), Watch():
        module(features, torch.tensor([3, 400]))
    assert 0 < largest < classes * 16 * 16


def _shared(case: dict) -> tuple[SharedHead, list[Tensor], Tensor]:
    own, features, targets = _case(case)
    vectors = ClassVectors(torch.randn(case["classes"], 5))
    head = SharedHead([c for c, _, _ in case["taps"]], vectors, own.map_size)
    for name in ("convs", "bns"):
        getattr(head, name).load_state_dict(getattr(own, name).state_dict())
    for norm in head.norms:
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.3, 3)
    nn.init.normal_(head.matrix)
    nn.init.normal_(head.bias)
    return head, features, targets


@settings(max_examples=40, deadline=None)
@given(cases)
def test_a_shared_head_multiplied_out_is_a_textbook_head(case: dict) -> None:
    head, features, targets = _shared(case)
    head.eval()
    rows = head.multiplied_out()
    with torch.no_grad():
        expected = _textbook(rows, features, head.map_size)
        for module in (head, head.fold(), rows):
            _assert_near(module(features), expected)
            _assert_near(module(features, targets), _select(expected, targets))


def test_the_state_of_a_shared_head_has_no_size_of_all_classes() -> None:
    head = SharedHead([6, 6], ClassVectors(torch.randn(5000, 9)), (16, 16))
    for module in (head, head.fold()):
        assert max(value.numel() for value in module.state_dict().values()) == 10 * 12
    weight = head.vectors.weight
    assert head.fold().fusion.vectors.weight.data_ptr() == weight.data_ptr()
