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
from ttame_core.data.index import finish_dataset, load_shards
from ttame_core.data.loader import Batch
from ttame_core.data.plan import plan_shards
from ttame_core.data.shards import write_shard
from ttame_core.explainers import ForwardPass, forward_pass
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
    net = timm.create_model(model, **{"num_classes": 10} | arguments)
    return Backbone(net, model, PLAIN)


TINY_VIT = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3}
TINY_SWIN = {
    "img_size": 64,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 4, 4),
}


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
    return tiny_backbone("swin_tiny_patch4_window7_224", **TINY_SWIN)


def lively(backbone: Backbone) -> Backbone:
    """With weights so large that tokens attend to some more than to others."""
    torch.manual_seed(1)
    for name, parameter in backbone.model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.2)
        elif "norm" not in name and "ln" not in name:
            parameter.normal_(std=0.1)
    return backbone


def sizes_of(lake: Lake, dataset: str, split: str) -> list[tuple[str, int]]:
    """The names and sample counts of the shards of a split."""
    return [(shard.shard, shard.samples) for shard in load_shards(lake, dataset, split)]


def noise_pass(backbone: Backbone, count: int = 3) -> ForwardPass:
    """The forward pass over images of coloured noise."""
    generator = torch.Generator().manual_seed(2)
    shape = (count, 3, *backbone.preprocessing.input_size)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return forward_pass(backbone, Batch.bare([str(i) for i in range(count)], images))
