"""The pixels of the classifier's view that belong to annotated objects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def inside_boxes(boxes: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Return (B, H, W) bool: pixels whose centre lies in any of the image's boxes.

    Args:
        boxes: for each image (N, 4), x0, y0, x1, y1 in pixels.
        size: (H, W).
    """
    corners = pad_sequence(list(boxes), batch_first=True)  # padded boxes hold no pixel
    x0, y0, x1, y1 = corners[..., None].unbind(dim=2)
    ys = torch.arange(size[0], device=corners.device) + 0.5
    xs = torch.arange(size[1], device=corners.device) + 0.5
    rows, columns = (ys >= y0) & (ys < y1), (xs >= x0) & (xs < x1)  # (B, N, H), (B, N, W)
    return torch.bmm(rows.float().mT, columns.float()) > 0


def object_pixels(
    boxes: Sequence[Tensor], masks: Sequence[Tensor | None], size: Sequence[int]
) -> Tensor:
    """Return (B, H, W) bool: pixels of the image's mask, or of its boxes where it has none.

    Args:
        boxes: for each image (N, 4), x0, y0, x1, y1 in pixels.
        masks: for each image (H, W) object numbers, 0 for background, or None.
        size: (H, W).
    """
    objects = inside_boxes(boxes, size)
    for i, mask in enumerate(masks):
        if mask is not None:
            objects[i] = mask > 0
    return objects
