"""What is said about architectures, and that it is true of every one of them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import timm
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

Arguments = dict[str, Any]

# All that cannot be explained, and why: encoders whose classes are not to be had.
REFUSED = {
    f"{name}_enc": "is no classifier and cannot be given classes"
    for name in (
        "deepseek_vit_412m", "gemma4_vit_167m", "gemma4_vit_570m", "mobilenetv5_300m",
        "qwen3_vit_88m", "qwen3_vit_306m", "qwen3_vit_416m",
    )
}  # fmt: skip

# The architecture of each of timm's modules with the fewest parameters.
SMALLEST = {
    "beit": "beit_base_patch16_224", "byoanet": "halonet_h1", "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224", "coat": "coat_tiny", "convit": "convit_tiny",
    "convmixer": "convmixer_768_32", "convnext": "test_convnext", "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240", "csatv2": "csatv2", "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny", "davit": "davit_tiny", "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224", "densenet": "densenet121", "dla": "dla46x_c", "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small", "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0", "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1", "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0", "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0", "fastvit": "fastvit_t8", "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny", "gemma4_vit": "gemma4_vit_167m", "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b", "hgnet": "hgnetv2_b0", "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny", "hrnet": "hrnet_w18_small", "iformer": "iformer_t",
    "inception_next": "inception_next_atto", "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3", "inception_v4": "inception_v4", "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s", "lowformer": "lowformer_b0", "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet", "metaformer": "poolformerv2_s12", "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050", "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs", "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap", "nasnet": "nasnetalarge", "nest": "nest_tiny",
    "nextvit": "nextvit_small", "nfnet": "test_nfnet", "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large", "pvt_v2": "pvt_v2_b0", "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny", "regnet": "regnetx_002", "repghost": "repghostnet_050",
    "repvit": "repvit_m1", "res2net": "res2next50", "resnest": "resnest14d",
    "resnet": "test_resnet", "resnetv2": "resnetv2_18", "rexnet": "rexnet_100",
    "selecsls": "selecsls42", "senet": "legacy_seresnet18", "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1", "sknet": "skresnet18", "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs", "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224", "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224", "tresnet": "tresnet_m", "twins": "twins_svt_small",
    "vgg": "vgg11", "visformer": "visformer_tiny", "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224", "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224", "vovnet": "ese_vovnet19b_slim_dw", "xception": "legacy_xception",
    "xception_aligned": "xception41p", "xcit": "xcit_nano_12_p8_224",
}  # fmt: skip
# Modules of networks that people use, of every kind; the others take `make test-all`.
USED = (
    "beit", "cait", "convit", "convmixer", "convnext", "crossvit", "davit", "deit", "densenet",
    "edgenext", "efficientnet", "eva", "fastvit", "ghostnet", "hiera", "hrnet", "inception_v3",
    "levit", "maxxvit", "metaformer", "mlp_mixer", "mobilenetv3", "mobilevit", "mvitv2", "nfnet",
    "pit", "pvt_v2", "regnet", "resnet", "resnetv2", "senet", "swin_transformer",
    "swin_transformer_v2", "twins", "vgg", "vision_transformer", "vision_transformer_sam", "volo",
    "xception", "xcit",
)  # fmt: skip
# Arguments by which the largest of these become small.
NARROW_VIT = {"embed_dim": 192, "depth": 4, "num_heads": 3}
NARROWER: dict[str, Arguments] = {
    "beit": NARROW_VIT,
    "vgg": {"mlp_ratio": 0.05},
    "vision_transformer_sam": NARROW_VIT,
}
SMALL = (96, 128)  # pixels
LARGE = 400  # pixels


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
def described() -> Described:
    """All architectures, or why they cannot be."""
    names = timm.list_models()
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        return dict(zip(names, pool.map(describe_or_error, names, chunksize=16), strict=True))


@pytest.mark.long
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


@pytest.mark.long
def test_the_smallest_are_listed(described: Described) -> None:
    """With the fewest parameters of each timm module."""
    found: dict[str, str] = {}
    for module in list_modules():
        sizes = {
            name: coverage.parameters
            for name in timm.list_models(module=module)
            if isinstance(coverage := described[name], Coverage)
        }
        if sizes:
            found[module] = min(sizes, key=lambda name: sizes[name])
    assert found == SMALLEST or timm.__version__ != "1.0.31"


@pytest.fixture
def returned() -> Iterator[None]:
    """What a test has freed goes back to the system: the largest networks take gigabytes."""
    yield
    gc.collect()
    give_back()


@pytest.mark.parametrize("module", USED)
def test_a_narrow_one_of_every_kind_runs(module: str) -> None:
    """With random weights, at a small size that is not square where it takes that."""
    model, arguments = SMALLEST[module], NARROWER.get(module, {})
    known(model)
    try:
        backbone = random_backbone(model, SMALL, **arguments)
    except UserError:
        backbone = random_backbone(model, **arguments)
    check(backbone)


@pytest.mark.long
@pytest.mark.usefixtures("returned")
@pytest.mark.parametrize("module", sorted(SMALLEST))
def test_the_smallest_of_every_module_runs(module: str) -> None:
    """As it is, at its own size, and at one that is not square where it takes that."""
    model = SMALLEST[module]
    known(model)
    backbone = random_backbone(model)
    assert backbone.taps == describe(model).taps
    check(backbone)
    if wide := wider(backbone):
        check(wide)


def known(model: str) -> None:
    """Skip the test where another version of timm has no such architecture."""
    if model not in timm.list_models():
        pytest.skip(f"timm {timm.__version__} has no {model}")


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
