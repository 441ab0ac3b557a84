"""The embedded data set: drawn objects on cluttered backgrounds, with exact masks and boxes.

The data set tests localisation fairly. Class, position, size, colour, texture and lighting are
drawn independently of one another, so that only an object's outline tells its class (all classes
cover the same range of image area). The background holds distractors, which belong to no class.
A picture follows from seed, split, index and size alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES = (
    "arrow",
    "bolt",
    "crescent",
    "cross",
    "disc",
    "heart",
    "ring",
    "square",
    "star",
    "triangle",
)

SUPERSAMPLING = 4
OBJECT_AREA = (0.035, 0.13)  # share of the image that all its objects cover
TILT = math.radians(30)  # at most, since things in pictures stand more or less upright
MINIMUM_CONTRAST = 0.45  # RGB distance (of at most sqrt(3)) between an object and its background
MINIMUM_BRIGHTNESS = 0.4  # of an object's strongest channel, so that it is visible on black too


@dataclass(frozen=True)
class ShapesSample:
    """One drawn picture.

    Attributes:
        image: (size, size, 3) uint8.
        mask: (size, size) uint8, 0 for background and 1, 2, … for the objects.
        boxes: (x0, y0, x1, y1) in pixels for each object; x1 and y1 are exclusive.
        labels: number of the class of each object.
    """

    image: np.ndarray
    mask: np.ndarray
    boxes: tuple[tuple[int, int, int, int], ...]
    labels: tuple[int, ...]


def _circle(radius: float, start: float = 0.0, stop: float = 2 * math.pi) -> np.ndarray:
    angles = np.linspace(start, stop, 48)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star(points: int, inner: float) -> np.ndarray:
    angles = np.arange(2 * points) * math.pi / points
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y - 2], axis=1) / 16


def _crescent() -> np.ndarray:
    outer = _circle(1.0, math.radians(50), math.radians(310))
    inner = _circle(0.8, math.radians(287), math.radians(73)) + np.array([0.41, 0.0])
    return np.concatenate([outer, inner])


def _points(*pairs: tuple[float, float]) -> np.ndarray:
    return np.array(pairs, dtype=float)


# Outlines in units of an object's radius. A second path is a hole, as in the ring.
OUTLINES: dict[str, tuple[np.ndarray, ...]] = {
    "arrow": (
        _points(
            (1, 0), (0.1, -0.75), (0.1, -0.3), (-1, -0.3), (-1, 0.3), (0.1, 0.3), (0.1, 0.75)
        ),
    ),
    "bolt": (
        _points((0.35, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.35, 1), (0.6, -0.2), (0.08, -0.2)),
    ),
    "crescent": (_crescent(),),
    "cross": (
        _points(
            (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3),
            (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3),
        ),
    ),
    "disc": (_circle(1.0),),
    "heart": (_heart(),),
    "ring": (_circle(1.0), _circle(0.55)),
    "square": (_points((-1, -1), (1, -1), (1, 1), (-1, 1)),),
    "star": (_star(5, 0.42),),
    "triangle": (_points((0, -1), (0.87, 0.5), (-0.87, 0.5)),),
}  # fmt: skip


def _polygon_area(points: np.ndarray) -> float:
    x, y = points.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def _outline_area(outline: tuple[np.ndarray, ...]) -> float:
    return _polygon_area(outline[0]) - sum(_polygon_area(hole) for hole in outline[1:])


def _field(rng: np.random.Generator, cells: int, size: int, channels: int = 3) -> np.ndarray:
    """Draw a smooth random field in [0, 1], (size, size, channels)."""
    grid = rng.integers(0, 256, (cells, cells, channels), dtype=np.uint8)
    image = Image.fromarray(grid.squeeze()).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32).reshape(size, size, channels) / 255


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    return tuple(int(c) for c in rng.integers(0, 256, 3))  # type: ignore[return-value]


def _draw_distractors(rng: np.random.Generator, canvas: Image.Image) -> None:
    """Draw blobs, bars, waves, arcs and specks, which belong to no class."""
    draw = ImageDraw.Draw(canvas)
    size = canvas.width
    for _ in range(rng.integers(4, 11)):
        centre = rng.uniform(0, size, 2)
        colour = _colour(rng)
        kind = rng.integers(5)
        if kind == 0:  # irregular blob
            count = rng.integers(6, 11)
            angles = np.sort(rng.uniform(0, 2 * math.pi, count))
            radii = rng.uniform(0.03, 0.16, count) * size
            blob = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            draw.polygon([tuple(p) for p in blob], fill=colour)
        elif kind == 1:  # bar that runs a long way
            angle = rng.uniform(0, math.pi)
            reach = rng.uniform(0.3, 0.9) * size * np.array([math.cos(angle), math.sin(angle)])
            width = int(rng.uniform(0.01, 0.05) * size)
            draw.line([tuple(centre - reach), tuple(centre + reach)], fill=colour, width=width)
        elif kind == 2:  # wave
            along = np.linspace(-0.4, 0.4, 40) * size
            across = rng.uniform(0.02, 0.06) * size * np.sin(along / size * rng.uniform(15, 40))
            turn = rng.uniform(0, math.pi)
            rotation = np.array(
                [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
            )
            wave = centre + np.stack([along, across], axis=1) @ rotation.T
            draw.line([tuple(p) for p in wave], fill=colour, width=int(0.015 * size) + 1)
        elif kind == 3:  # open arc
            radius = rng.uniform(0.08, 0.3) * size
            start = rng.uniform(0, 360)
            corners = [tuple(centre - radius), tuple(centre + radius)]
            width = int(rng.uniform(0.01, 0.03) * size)
            draw.arc(corners, start, start + rng.uniform(40, 130), fill=colour, width=width)
        else:  # specks
            for speck in centre + rng.normal(0, 0.1 * size, (rng.integers(4, 12), 2)):
                radius = rng.uniform(0.008, 0.02) * size
                draw.ellipse([tuple(speck - radius), tuple(speck + radius)], fill=colour)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a cluttered background, (size, size, 3) float32 in [0, 1]."""
    coarse = _field(rng, int(rng.integers(2, 5)), size)
    middle = _field(rng, int(rng.integers(8, 20)), size) - 0.5
    canvas = np.clip(coarse + rng.uniform(0.1, 0.5) * middle, 0, 1)
    large = Image.fromarray((canvas * 255).astype(np.uint8)).resize((2 * size, 2 * size))
    _draw_distractors(rng, large)
    return np.asarray(large.resize((size, size), Image.Resampling.BOX), dtype=np.float32) / 255


def _coverage(outline: tuple[np.ndarray, ...], size: int) -> np.ndarray:
    """Return how much of each pixel an outline covers, (size, size) float32 in [0, 1]."""
    canvas = Image.new("L", (size * SUPERSAMPLING, size * SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for path, fill in zip(outline, (255, 0), strict=False):
        draw.polygon([tuple(p) for p in path * SUPERSAMPLING], fill=fill)
    return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) / 255


def _texture(rng: np.random.Generator, size: int, behind: np.ndarray) -> np.ndarray:
    """Draw an object's plain, shaded, striped or speckled surface, (size, size, 3) float32."""
    colour = rng.uniform(0, 1, 3)
    while np.linalg.norm(colour - behind) < MINIMUM_CONTRAST or colour.max() < MINIMUM_BRIGHTNESS:
        colour = rng.uniform(0, 1, 3)
    surface = np.broadcast_to(colour.astype(np.float32), (size, size, 3)).copy()
    kind = rng.integers(4)
    if kind == 1:
        surface += 0.25 * (_field(rng, 2, size, 1) - 0.5)
    elif kind == 2:
        angle, period = rng.uniform(0, math.pi), rng.uniform(0.04, 0.1) * size
        y, x = np.mgrid[:size, :size].astype(np.float32)
        phase = (x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period
        surface += 0.12 * np.sign(np.sin(phase))[..., None]
    elif kind == 3:
        surface += 0.3 * (_field(rng, size // 4, size, 1) - 0.5)
    return np.clip(surface, 0, 1)


def _place(
    rng: np.random.Generator, outline: tuple[np.ndarray, ...], area: float, size: int
) -> tuple[np.ndarray, ...]:
    """Tilt an outline, scale it to `area` pixels, and move it to a random place in the image."""
    turn = rng.uniform(-TILT, TILT)
    scale = math.sqrt(area / _outline_area(outline))
    rotation = scale * np.array(
        [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    )
    turned = [path @ rotation.T for path in outline]
    low, high = turned[0].min(axis=0), turned[0].max(axis=0)
    shift = rng.uniform(1 - low, np.maximum(size - 1 - high, 1 - low))
    return tuple(path + shift for path in turned)


def _start(
    split: str, index: int, seed: int, size: int, labels: int
) -> tuple[np.random.Generator, list[int]]:
    """Return the generator of a sample, and the labels, which it draws first."""
    rng = np.random.default_rng([seed, *split.encode(), index, size])
    if labels == 1:
        return rng, [int(rng.integers(len(CLASSES)))]
    return rng, rng.choice(len(CLASSES), labels, replace=False).tolist()


def draw_labels(
    split: str, index: int, seed: int = 0, size: int = 96, labels: int = 1
) -> list[int]:
    """Return the labels of the sample that `draw_sample` draws from the same arguments."""
    return _start(split, index, seed, size, labels)[1]


def draw_sample(
    split: str, index: int, seed: int = 0, size: int = 96, labels: int = 1
) -> ShapesSample:
    """Draw a sample, which follows from the arguments alone.

    Args:
        split: name of the split.
        index: number of the sample in the split, from 0.
        seed: seed of the data set.
        size: side of the square picture, in pixels.
        labels: number of classes in the picture, each with an object; a class that is alone may
            have two.
    """
    rng, own = _start(split, index, seed, size, labels)
    if labels == 1:
        own *= 2 if rng.random() < 0.2 else 1
    count = len(own)
    area = math.exp(rng.uniform(*np.log(OBJECT_AREA))) if count == 1 else OBJECT_AREA[1]

    image = _background(rng, size)
    mask = np.zeros((size, size), dtype=np.uint8)
    boxes: list[tuple[int, int, int, int]] = []
    while len(boxes) < count:
        outline = OUTLINES[CLASSES[own[len(boxes)]]]
        cover = _coverage(_place(rng, outline, area / count * size * size, size), size)
        inside = cover >= 0.5
        if (inside & (mask > 0)).any():
            continue  # objects do not touch
        behind = (image * cover[..., None]).sum(axis=(0, 1)) / cover.sum()
        surface = _texture(rng, size, behind)
        image = image + cover[..., None] * (surface - image)
        ys, xs = np.nonzero(inside)
        boxes.append((int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1))
        mask[inside] = len(boxes)

    light = 0.65 + 0.5 * _field(rng, 2, size, 1)  # uneven lighting over object and background
    image = np.clip(image * light + rng.normal(0, rng.uniform(0, 0.03), image.shape), 0, 1)
    picture = Image.fromarray((image * 255).astype(np.uint8))
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8)))
    return ShapesSample(np.asarray(picture), mask, tuple(boxes), tuple(own))
