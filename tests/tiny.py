"""Small pictures, shards and classifiers that many tests use."""

from __future__ import annotations

import io

import timm
import torch
from PIL import Image
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vgg import VGG, make_layers
from torchvision.models.vision_transformer import VisionTransformer

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.data.sharding import finish_dataset, plan_shards, write_shard
from ttame_core.lake import Lake

PLAIN = Preprocessing((64, 64), 1.0, "center", "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def jpeg(size: tuple[int, int] = (40, 30), colour: str = "red", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def shard_all(dataset: spec.Dataset, lake: Lake) -> list[bool]:
    """The whole of `ttame shard`; which shards were written."""
    plan = plan_shards(dataset, lake)
    written = [write_shard(dataset, lake, plan, name) for name in plan.shards]
    finish_dataset(dataset, lake, plan)
    return written


def tiny_backbone(model: str = "resnet10t", **arguments: object) -> Backbone:
    """A classifier with random weights that takes 64×64 pixels."""
    torch.manual_seed(0)
    if model == "resnet10t":
        arguments = {"channels": (8, 16, 24, 32), "stem_width": 8} | arguments
    net = timm.create_model(model, num_classes=10, **arguments)
    return Backbone(net, model, PLAIN)


TINY_VIT = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3}


def small_vgg() -> nn.Module:
    """As torchvision's VGG, with five pooling stages."""
    torch.manual_seed(0)
    layers = make_layers([8, "M", 16, "M", 24, "M", 32, "M", 32, "M"])
    net = VGG(layers, num_classes=10, init_weights=False)
    net.classifier = nn.Linear(32 * 7 * 7, 10)
    return net


def small_resnet() -> nn.Module:
    torch.manual_seed(0)
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10, width_per_group=64)


def small_vit() -> nn.Module:
    torch.manual_seed(0)
    size = {"image_size": 64, "patch_size": 8, "num_layers": 4, "num_heads": 3}
    net = VisionTransformer(**size, hidden_dim=48, mlp_dim=96, num_classes=10)
    nn.init.normal_(net.heads.head.weight, std=0.1)  # torchvision's starts at 0
    return net


def tiny_vit() -> Backbone:
    """A vision transformer that classifies from its class token."""
    return tiny_backbone("vit_tiny_patch16_224", **TINY_VIT)


def tiny_swin() -> Backbone:
    """A hierarchical transformer whose features lie as (B, h, w, C)."""
    return tiny_backbone(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        window_size=4,
        embed_dim=8,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
    )
