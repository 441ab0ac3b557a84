"""Random maps: a floor for all explainers."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from ttame_core.explainers.base import Explainer, ForwardPass
from ttame_core.lake.schemas import YARDSTICK


class Random(Explainer):
    """Uniform noise at the head's resolution, the same for the same key and target."""

    name = "random"
    role = YARDSTICK
    reads_image = False

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        maps = [
            [self._noise(key, int(target)) for target in row]
            for key, row in zip(forward.batch.keys, targets, strict=True)
        ]
        return torch.from_numpy(np.array(maps))

    def _noise(self, key: str, target: int) -> np.ndarray:
        digest = hashlib.sha256(f"{key}/{target}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:16], "big"))
        return rng.random(self.backbone.map_size, dtype=np.float32)
