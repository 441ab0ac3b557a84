"""The exported graph gives the logits and the map that ttame gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY_VIT, tiny_backbone

from ttame_core.backbones import Backbone
from ttame_core.errors import UserError
from ttame_core.heads.attention import AttentionHead
from ttame_core.heads.export import export
from ttame_core.perturbation.masking import min_max

Run = Callable[[torch.Tensor], list[torch.Tensor]]


def _head(backbone: Backbone) -> AttentionHead:
    torch.manual_seed(3)
    head = AttentionHead([t.channels for t in backbone.taps], 10, backbone.map_size).eval()
    for bn in head.bns:
        torch.nn.init.uniform_(bn.running_mean, -0.2, 0.2)
        torch.nn.init.uniform_(bn.weight, 0.5, 1.5)
    return head


def _onnx(path: str) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert [o.name for o in session.get_outputs()] == ["logits", "map"]
    return lambda images: [torch.from_numpy(o) for o in session.run(None, {"images": _np(images)})]


def _np(images: torch.Tensor) -> np.ndarray:
    return images.numpy()


READERS: dict[str, Callable[[str], Run]] = {
    ".onnx": _onnx,
    ".pt2": lambda path: torch.export.load(path).module(),
    ".pt": torch.jit.load,
}


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("model", ["resnet10t", "vit_tiny_patch16_224"])
def test_it_runs_elsewhere(model: str, suffix: str, tmp_path: Path) -> None:
    backbone = tiny_backbone(model, **(TINY_VIT if model.startswith("vit") else {}))
    head = _head(backbone)
    path = str(tmp_path / f"net{suffix}")
    export(backbone.fold(), head, path)
    run = READERS[suffix](path)
    for count in (1, 5):
        images = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            logits, features = backbone.features(backbone.normalise(images))
            maps = min_max(head(features, logits.argmax(dim=1))[:, 0])
        found_logits, found_maps = run(images)
        torch.testing.assert_close(found_logits, logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found_maps, maps, rtol=1e-3, atol=1e-4)


def test_an_unknown_format(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    with pytest.raises(UserError, match=r"must be one of \.onnx, \.pt2, \.pt.*Did you mean \.onnx"):
        export(backbone, _head(backbone), str(tmp_path / "net.onx"))
