"""Components of all levels of a map and their boxes, in loops that Numba compiles.

Pixels are numbered row by row, in a map with a frame of one pixel, so that all pixels of the map
have all neighbours; the frame belongs to no component. A component is a tree of pixels in
`parents`: the root is its own parent, and a pixel that has not joined a component has -1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ttame_core.perturbation.imputation.compiled import compiled

X0, Y0, X1, Y1 = range(4)  # of a box: its first and last column and row
Grey, Boxes, Overlaps = NDArray[np.uint8], NDArray[np.int32], NDArray[np.float64]
Pixels = NDArray[np.int32]


@compiled
def ious(grey: Grey, annotated: Boxes) -> Overlaps:
    """Compute the IoU of the largest contour's box and of the best one, at each level.

    Args:
        grey: (H, W), with a least value of 0 and a largest of 255; or all of one value.
        annotated: (N, 4) boxes x0, y0, x1, y1.

    Returns:
        (2, 255) in [0, 1].
    """
    found = np.zeros((2, 255))
    if grey.min() == grey.max():
        found[:] = _iou(0, 0, 0, 0, annotated)
        return found
    best = np.zeros((2, 255))
    for holes in (False, True):
        _best(~grey if holes else grey, holes, annotated, best[int(holes)])
    for level in range(255):  # a value of at most t is inverted one above 254 - t
        found[1, level] = max(best[0, level], best[1, 254 - level])
    _largest(_without_holes(grey), annotated, found[0])
    return found


@compiled
def _best(grey: Grey, holes: bool, annotated: Boxes, found: Overlaps) -> None:
    """Write into `found` (255,), for each level, the largest IoU of a component's box.

    A component is a connected set of the map's pixels above the level. With `holes`, `grey` is the
    inverted map: components are 4-connected, those at the map's edge do not count, and the box is
    that of the pixels around the hole. Otherwise they are 8-connected, and all count.
    """
    values, order, parents, boxes = _none_joined(grey)
    neighbours = _neighbours(grey)[: 4 if holes else 8]
    since = np.empty(values.size, np.int32)  # the value at which a component got its box
    for pixel in order:
        value = np.int32(values[pixel])
        if value == 0:
            break
        own = pixel
        _begin(pixel, grey, parents, boxes)
        since[pixel] = value
        for neighbour in neighbours:
            if parents[pixel + neighbour] < 0:
                continue
            other = _root(parents, pixel + neighbour)
            if other == own:
                continue
            for root in (own, other):
                if since[root] > value:
                    _note(boxes[root], value, since[root], holes, grey, annotated, found)
            own = _join(own, other, parents, boxes)
            since[own] = value
    for pixel in order:
        if parents[pixel] == pixel:
            _note(boxes[pixel], 0, since[pixel], holes, grey, annotated, found)


@compiled
def _note(
    box: Boxes, low: int, high: int, holes: bool, grey: Grey, annotated: Boxes, found: Overlaps
) -> None:
    """Raise `found` to a box's IoU, where that is larger, at the levels from low to high − 1."""
    height, width = grey.shape
    x0, y0, x1, y1 = box
    if holes:
        if x0 == 0 or y0 == 0 or x1 == width - 1 or y1 == height - 1:
            return
        x0, y0, x1, y1 = x0 - 1, y0 - 1, x1 + 1, y1 + 1
    overlap = _iou(x0, y0, min(x1 + 1, width - 1), min(y1 + 1, height - 1), annotated)
    for level in range(low, high):
        found[level] = max(found[level], overlap)


@compiled
def _largest(grey: Grey, annotated: Boxes, found: Overlaps) -> None:
    """Set `found` (255,) to the IoU of the contour with the largest area above each level.

    As in OpenCV, the area is that of the polygon through the centres of a contour's pixels. A
    square of four neighbouring centres adds its whole area where all four pixels belong to the
    component, and half of it where three do. Of contours with equal areas, the one counts whose
    first pixel, row by row, comes last, which is the order of OpenCV.

    grey: (H, W) without holes, as the contour of a hole is never larger than the one around it.
    """
    values, order, parents, boxes = _none_joined(grey)
    neighbours = _neighbours(grey)
    areas = np.zeros(values.size, np.int32)  # twice those of the polygons
    firsts = np.arange(values.size)
    largest, place = order[0], 0
    for level in range(254, -1, -1):
        area, first, start = areas[largest], firsts[largest], place
        while place < len(order) and values[order[place]] > level:
            pixel = own = order[place]
            _begin(pixel, grey, parents, boxes)
            for neighbour in neighbours:
                if parents[pixel + neighbour] < 0:
                    continue
                other = _root(parents, pixel + neighbour)
                if other != own:
                    area_of_both = areas[own] + areas[other]
                    first_of_both = min(firsts[own], firsts[other])
                    own = _join(own, other, parents, boxes)
                    areas[own], firsts[own] = area_of_both, first_of_both
            areas[own] += _half_squares(pixel, grey, parents)
            place += 1
        largest = _root(parents, largest)
        if areas[largest] == area and firsts[largest] != first:
            start = 0  # another one, as large, may come before it now
        for pixel in order[start:place]:
            root = _root(parents, pixel)
            if (areas[root], firsts[root]) > (areas[largest], firsts[largest]):
                largest = root
        _note(boxes[largest], level, level + 1, False, grey, annotated, found)


@compiled
def _without_holes(grey: Grey) -> Grey:
    """Raise each pixel to the lowest peak on a 4-connected way from it out of the map (H, W)."""
    values, order, reached, _ = _none_joined(grey)
    neighbours = _neighbours(grey)[:4]
    heads = np.full(256, -1)  # of the lists of pixels that wait, by value
    following = np.empty(values.size, np.int32)
    frame = np.ones(values.size, np.bool_)
    frame[order] = False
    for pixel in order:
        for neighbour in neighbours:
            if frame[pixel + neighbour] and reached[pixel] < 0:
                reached[pixel] = 1
                following[pixel], heads[values[pixel]] = heads[values[pixel]], pixel
    for value in range(256):
        while heads[value] >= 0:
            pixel = heads[value]
            heads[value] = following[pixel]
            for neighbour in neighbours:
                near = pixel + neighbour
                if frame[near] or reached[near] >= 0:
                    continue
                reached[near] = 1
                values[near] = max(values[near], np.uint8(value))
                following[near], heads[values[near]] = heads[values[near]], near
    return values.reshape(grey.shape[0] + 2, grey.shape[1] + 2)[1:-1, 1:-1].copy()


@compiled
def _none_joined(grey: Grey) -> tuple[NDArray[np.uint8], Pixels, Pixels, Boxes]:
    """Return the arrays with which components are joined, before any pixel belongs to one.

    Returns:
        Values of the pixels of the framed map, flat; positions of the map's pixels, the highest
        value first; the parent of each pixel, -1 for none yet; and memory for each pixel's box.
    """
    height, width = grey.shape
    values = np.zeros((height + 2) * (width + 2), np.uint8)
    ends = np.zeros(256, np.int64)
    for y in range(height):
        for x in range(width):
            values[(y + 1) * (width + 2) + x + 1] = grey[y, x]
            ends[grey[y, x]] += 1
    for value in range(254, -1, -1):
        ends[value] += ends[value + 1]
    order = np.empty(grey.size, np.int32)
    for y in range(height, 0, -1):
        for x in range(width, 0, -1):
            pixel = y * (width + 2) + x
            ends[values[pixel]] -= 1
            order[ends[values[pixel]]] = pixel
    return values, order, np.full(values.size, -1, np.int32), np.empty((values.size, 4), np.int32)


@compiled
def _neighbours(grey: Grey) -> NDArray[np.int64]:
    """Return what to add to a pixel's number for its neighbours.

    The four beside it come first, then the four at its corners.
    """
    width = grey.shape[1] + 2
    return np.array([-width, -1, 1, width, -width - 1, -width + 1, width - 1, width + 1])


@compiled
def _begin(pixel: int, grey: Grey, parents: Pixels, boxes: Boxes) -> None:
    """Make a component of one pixel."""
    width = grey.shape[1] + 2
    parents[pixel] = pixel
    boxes[pixel, X0] = boxes[pixel, X1] = pixel % width - 1
    boxes[pixel, Y0] = boxes[pixel, Y1] = pixel // width - 1


@compiled
def _join(own: int, other: int, parents: Pixels, boxes: Boxes) -> int:
    """Join the components of two roots, and return the root of the result."""
    parents[own] = other
    boxes[other, X0] = min(boxes[own, X0], boxes[other, X0])
    boxes[other, Y0] = min(boxes[own, Y0], boxes[other, Y0])
    boxes[other, X1] = max(boxes[own, X1], boxes[other, X1])
    boxes[other, Y1] = max(boxes[own, Y1], boxes[other, Y1])
    return other


@compiled
def _root(parents: Pixels, pixel: int) -> int:
    """Return the root of a pixel's component."""
    while parents[pixel] != pixel:
        parents[pixel] = parents[parents[pixel]]
        pixel = parents[pixel]
    return pixel


@compiled
def _half_squares(pixel: int, grey: Grey, parents: Pixels) -> int:
    """Count the half squares by which a pixel enlarges the polygon of its component.

    The pixel is in four squares of four pixels each. A square counts once where two or three of the
    other pixels belong to a component already.
    """
    width = grey.shape[1] + 2
    count = 0
    for down in (-width, width):
        for right in (-1, 1):
            joined = (
                (parents[pixel + down] >= 0)
                + (parents[pixel + right] >= 0)
                + (parents[pixel + down + right] >= 0)
            )
            count += joined >= 2
    return count


@compiled
def _iou(x0: int, y0: int, x1: int, y1: int, annotated: Boxes) -> float:
    """Return the IoU of a box with the annotated one (N, 4) that it overlaps most."""
    best = 0.0
    for i in range(len(annotated)):
        ax0, ay0, ax1, ay1 = annotated[i]
        common = max(min(x1, ax1) - max(x0, ax0) + 1, 0) * max(min(y1, ay1) - max(y0, ay0) + 1, 0)
        both = (x1 - x0 + 1) * (y1 - y0 + 1) + (ax1 - ax0 + 1) * (ay1 - ay0 + 1)
        best = max(best, common / (both - common))
    return best
