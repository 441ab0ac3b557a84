"""What is said about architectures, and that it is true of every one of them."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import timm
import torch
from filelock import FileLock
from timm.models import list_modules

from harness.memory import give_back
from ttame_core.backbones import Backbone
from ttame_core.errors import UserError
from ttame_core.training.coverage import (
    Coverage,
    check,
    describe,
    find_architectures,
    random_backbone,
)

# All that cannot be explained, and why: encoders whose classes are not to be had.
REFUSED = {
    f"{name}_enc": "is no classifier and cannot be given classes"
    for name in (
        "deepseek_vit_412m", "gemma4_vit_167m", "gemma4_vit_570m", "mobilenetv5_300m",
        "qwen3_vit_88m", "qwen3_vit_306m", "qwen3_vit_416m",
    )
}  # fmt: skip

LARGE = 400  # pixels
LARGEST_KEPT = 50_000_000  # parameters of those before may still be in memory


@pytest.mark.parametrize("model", ["resnet10t", "test_vit", "test_convnext"])
def test_what_is_described_without_weights_is_what_the_real_network_has(model: str) -> None:
    found = describe(model)
    backbone = random_backbone(model)
    assert found.taps == backbone.taps
    assert found.map_size == backbone.map_size
    assert found.input_size == backbone.preprocessing.input_size
    assert found.parameters == sum(p.numel() for p in backbone.parameters())
    check(backbone)


def test_an_encoder_is_given_classes() -> None:
    assert describe("resnet50_clip_gap").taps[-1].channels == 2048


def test_what_does_not_exist_is_said() -> None:
    assert find_architectures("resnet1?") == ["resnet18"]
    with pytest.raises(UserError, match="no architecture resnet5000"):
        find_architectures("resnet5000")


def test_a_feature_map_that_does_not_lie_as_the_image_is_found() -> None:
    backbone = random_backbone("test_vit")
    turned = [t.__class__(**{**vars(t), "order": tuple(range(100))[::-1]}) for t in backbone.taps]
    backbone.taps = tuple(turned)
    with pytest.raises(UserError, match="no map of the image"):
        check(backbone)


def describe_or_error(model: str) -> Coverage | str:
    try:
        return describe(model)
    except UserError as error:
        return str(error)


Described = dict[str, Coverage | str]


@pytest.fixture(scope="session")
def described(tmp_path_factory: pytest.TempPathFactory) -> Described:
    """All architectures, or why they cannot be; made once for all processes that test."""
    folder = tmp_path_factory.getbasetemp()
    path = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "described"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            names = timm.list_models()
            with ProcessPoolExecutor(2, get_context("spawn")) as pool:
                made = pool.map(describe_or_error, names, chunksize=16)
                path.write_bytes(pickle.dumps(dict(zip(names, made, strict=True))))
        return pickle.loads(path.read_bytes())


@pytest.mark.slow
def test_every_architecture_has_taps_and_a_head(described: Described) -> None:
    found = described
    assert len(found) >= 1371 or timm.__version__ != "1.0.31"
    refused = {name: what for name, what in found.items() if isinstance(what, str)}
    assert refused == {name: f"{name} {reason}" for name, reason in REFUSED.items()}
    for name, coverage in found.items():
        if isinstance(coverage, Coverage):
            height, width = coverage.input_size
            for tap in coverage.taps:
                assert 1 < tap.height < height, (name, tap)
                assert 1 < tap.width < width, (name, tap)
                assert tap.channels >= 16, (name, tap)
            assert coverage.head_parameters > 0


def smallest(module: str, found: Described) -> str | None:
    """The architecture of a timm module with the fewest parameters."""
    sizes = {
        name: coverage.parameters
        for name in timm.list_models(module=module)
        if isinstance(coverage := found[name], Coverage)
    }
    return min(sizes, key=lambda name: sizes[name], default=None)


@pytest.fixture
def returned() -> Iterator[None]:
    """What a test has freed goes back to the system: the largest networks take gigabytes."""
    yield
    give_back()


@pytest.fixture
def drawn_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large weights repeat a million random numbers: a quarter of the time went into drawing."""
    draw = torch.Tensor.uniform_

    def repeat(weights: torch.Tensor, *limits: float, **named: float) -> torch.Tensor:
        period = 1_000_003  # a prime, so that no two rows are the same
        drawn = draw(weights.new_empty(min(period, weights.numel())), *limits, **named)
        times = -(-weights.numel() // period)
        with torch.no_grad():
            return weights.copy_(drawn.repeat(times)[: weights.numel()].view(weights.shape))

    monkeypatch.setattr(torch.Tensor, "uniform_", repeat)


@pytest.mark.slow
@pytest.mark.usefixtures("drawn_soon", "returned")
@pytest.mark.parametrize("module", sorted(list_modules()))
def test_the_smallest_of_every_module_runs(module: str, described: Described) -> None:
    """With random weights, at its own size, and at one that is not square where it takes that."""
    model = smallest(module, described)
    if model is None:
        pytest.skip("defines no architecture")
    if described[model].parameters > LARGEST_KEPT:
        gc.collect()  # a third of a second, once all of torch is loaded
    backbone = random_backbone(model)
    assert backbone.taps == described[model].taps
    check(backbone)
    wide = wider(backbone)
    if wide is not None:
        check(wide)


def wider(backbone: Backbone) -> Backbone | None:
    """The same architecture for images of half the height; None where it takes squares alone.

    Large images are halved first: their squares have cost enough.
    """
    height, width = backbone.preprocessing.input_size
    stride = max(round(height / tap.height) for tap in backbone.taps)
    if width > LARGE:
        width = width // 2 // stride * stride
    lower = max(width // 2 // stride, 2) * stride
    try:
        return random_backbone(backbone.name, (lower, width))
    except UserError:
        return None
