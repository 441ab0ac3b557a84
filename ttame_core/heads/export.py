"""Export of a backbone and its head as one graph, from images to logits and maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ttame_core.backbones import Backbone
from ttame_core.errors import UserError, nearest, writing
from ttame_core.heads.attention import AttentionHead
from ttame_core.perturbation.masking import min_max


class Explained(nn.Module):
    """A module from images (B, 3, H, W) float32 in [0, 1] to logits and maps.

    The module normalises the images itself. A map explains the class with the largest logit.

    Args:
        backbone: the frozen classifier.
        head: the trained head.
    """

    def __init__(self, backbone: Backbone, head: AttentionHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head.eval().fold()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K) and maps (B, h, w) in [0, 1] of images (B, 3, H, W)."""
        logits, features = self.backbone.features(self.backbone.normalise(images))
        return logits, min_max(self.head(features, logits.argmax(dim=1))[:, 0])


def export(backbone: Backbone, head: AttentionHead, path: str) -> None:
    """Write backbone and head as a graph for any batch size.

    Args:
        backbone: the frozen classifier.
        head: the trained head.
        path: file to write. Its ending chooses the format: .onnx for ONNX, .pt2 for torch.export,
            .pt for TorchScript.

    Raises:
        UserError: the ending is none of these, or the model cannot be exported.
    """
    write = FORMATS.get(Path(path).suffix)
    if write is None:
        raise UserError(
            f"cannot export to {path}: its ending must be one of {', '.join(FORMATS)}."
            + nearest(Path(path).suffix, FORMATS)
        )
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(2, *backbone.preprocessing.shape, generator=generator).to(backbone.device)
    model = Explained(backbone, head).eval().requires_grad_(False)
    with writing(path) as file:
        try:
            with torch.no_grad():
                write(model, example, str(file))
        except Exception as error:  # exporters can raise anything
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"{backbone.name} cannot be exported to {path}: {reason}; another of the formats "
                f"may do: {', '.join(FORMATS)}"
            ) from error


def _program(model: Explained, example: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=4096)
    return torch.export.export(model, (example,), dynamic_shapes=({0: batch},), strict=False)


def _pt2(model: Explained, example: Tensor, path: str) -> None:
    torch.export.save(_program(model, example), path)


def _torchscript(model: Explained, example: Tensor, path: str) -> None:
    # From a program of torch.export, the script would have a fixed batch size.
    torch.jit.trace(model, example, check_trace=False).save(path)


def _onnx(model: Explained, example: Tensor, path: str) -> None:
    program = torch.onnx.export(
        _program(model, example),
        (example,),
        input_names=["images"],
        output_names=["logits", "map"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(path)


FORMATS: dict[str, Callable[[Explained, Tensor, str], None]] = {
    ".onnx": _onnx,
    ".pt2": _pt2,
    ".pt": _torchscript,
}
