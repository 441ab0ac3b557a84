"""Switches of the spec: they change speed, and results by no more than they may."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from tiny import PLAIN, TINY_VIT, tiny_backbone
from torch import nn

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.devices import device_of, place, precision_of
from ttame_core.errors import UserError
from ttame_core.heads.attention import AttentionHead
from ttame_core.perturbation.masking import min_max

IMAGES = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _maps(backbone: Backbone) -> torch.Tensor:
    torch.manual_seed(1)
    head = AttentionHead([t.channels for t in backbone.taps], 10, backbone.map_size).eval().fold()
    with torch.inference_mode(), backbone.autocast():
        logits, features = backbone.features(backbone.normalise(IMAGES))
        return min_max(head(features, logits.argmax(dim=1)).float())


def _convolutions() -> Backbone:
    """Two of them: each kernel of a compiled network takes seconds of the compiler's."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2)]
    layers += [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return Backbone(nn.Sequential(*layers), "convolutions", PLAIN, ["2", "4"])


def _blocks() -> Backbone:
    return tiny_backbone("vit_tiny_patch16_224", **TINY_VIT | {"depth": 2})


@pytest.mark.parametrize("make", [_convolutions, _blocks])
@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.long)], ids=["as is", "compiled"]
)
def test_layout_and_compilation_leave_the_maps(
    make: Callable[[], Backbone], compiled: bool
) -> None:
    plain, backbone = make(), make()
    place(backbone, spec.Compute(device="cpu", channels_last=not compiled, compile=compiled))
    torch.testing.assert_close(_maps(backbone), _maps(plain), rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(backbone(IMAGES), plain(IMAGES), rtol=1e-3, atol=1e-4)
    torch.compiler.reset()


def test_convolutions_are_channels_last_unless_switched_off() -> None:
    for wanted in (True, False):
        backbone = place(tiny_backbone(), spec.Compute(device="cpu", channels_last=wanted))
        weight = backbone.model.layer4[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == wanted


def test_precision_reaches_features_and_not_the_metrics() -> None:
    backbone = place(tiny_backbone(), spec.Compute(device="cpu", precision="bfloat16"))
    with torch.inference_mode():
        with backbone.autocast():
            logits, features = backbone.features(IMAGES)
        assert {logits.dtype, features[-1].dtype} == {torch.bfloat16}
        assert backbone(IMAGES).dtype == torch.float32
    exact = _maps(tiny_backbone())
    assert 0 < (_maps(backbone) - exact).abs().mean() < 0.01


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, auto = torch.device("cpu"), spec.Compute(precision="auto")
    assert precision_of(spec.Compute(), cpu) is torch.float32
    assert precision_of(spec.Compute(precision="float16"), cpu) is torch.float16
    for capabilities, expected in (
        ({"amx_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False}, torch.float32),
        ({}, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert precision_of(auto, cpu) is expected


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(spec.Compute()) == torch.device("cpu")
    with pytest.raises(UserError, match=r"compute\.device is cuda:1, but PyTorch finds no CUDA"):
        device_of(spec.Compute(device="cuda:1"))


FAULTS = """
import resource, torch
from ttame_core import spec
from ttame_core.backbones.devices import place
from ttame_core.training.coverage import random_backbone

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.empty(2**24).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
place(random_backbone("test_resnet"), spec.Compute(device="cpu"))
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_a_batch_frees_the_next_one_gets_without_asking_the_system() -> None:
    found = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    given_back, kept = map(int, found.stdout.split())
    assert kept * 10 < given_back


KEPT = """
import psutil, torch
from tasks.models import one_network
from ttame_core.backbones.devices import keep_freed_memory

def resident():
    return psutil.Process().memory_info().rss // 2**20

keep_freed_memory()
with one_network():
    batches = [torch.ones(2**18) for _ in range(400)]  # 400 MiB
    del batches
    print(resident())
print(resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_a_unit_of_work_freed_goes_back_to_the_system_when_it_ends() -> None:
    found = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True)
    kept, left = map(int, found.stdout.split())
    assert kept - left > 300
