"""The functions for notebooks and other programs, which take and return tensors, without a lake.

They run the code that audits run, so maps and scores are those of an audit of the same images.

Images are (B, 3, H, W), uint8 in 0 to 255 or float in [0, 1], of the size that the backbone takes.
`backbone.preprocessing.pixels` makes such an image (3, H, W) from a PIL picture, and is a transform
for any torch data set. A mistake in what is given raises UserError with one sentence.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ttame_core import backbones, spec
from ttame_core.audits.specification import complete_explainer, complete_metric
from ttame_core.backbones import Backbone
from ttame_core.backbones.devices import place
from ttame_core.backbones.wrapping import unwrapped
from ttame_core.data.annotations.base import mask_boxes
from ttame_core.data.loader import Batch
from ttame_core.errors import UserError, writing
from ttame_core.explainers import REGISTRY, Explainer, ForwardPass, Trained, forward_pass
from ttame_core.heads.attention import Head
from ttame_core.heads.files import head_bytes, read_head
from ttame_core.lake import Lake
from ttame_core.lake.families import schema_of
from ttame_core.lake.query.connection import run_query, values_of
from ttame_core.metrics import REGISTRY as FAMILIES
from ttame_core.metrics import MappedImages, Row
from ttame_core.perturbation.masking import min_max
from ttame_core.stages.explain import choose_targets, target_classes
from ttame_core.training.first_pass import FirstPass, first_pass
from ttame_core.training.head import HeadRun
from ttame_core.training.loop import Progress

Targets = Tensor | str | list[int]
Metrics = Sequence[str | Mapping[str, Mapping[str, Any]]]


def load_backbone(
    model: str | nn.Module | spec.Backbone,
    *,
    device: str = "auto",
    precision: str = "float32",
    **settings: Any,
) -> Backbone:
    """Return a frozen classifier, ready to be explained.

    Args:
        model: a name as in a spec (timm's, `torchvision/…`, `open_clip/…`, a folder,
            `package.module:function`), an `nn.Module`, which is copied, or a section of a spec.
            The preprocessing of a module is that of its `pretrained_cfg`, as timm's models have it,
            else that of ImageNet at 224×224; the key `preprocessing` overrides both.
        device: `auto`, `cpu`, `cuda`, or one GPU such as `cuda:1`.
        precision: number format of training and maps: `float32`, `bfloat16`, `float16` or `auto`.
        **settings: keys of a backbone's section in a spec: pretrained, checkpoint, num_classes,
            args, taps, preprocessing, name.

    Raises:
        UserError: the model is unknown, its weights do not fit, or a setting is wrong.

    Examples:
        tt.load_backbone("resnet50", pretrained=True)
        tt.load_backbone(net, preprocessing={"input_size": (96, 96)})
    """
    compute = _checked(spec.Compute, {"device": device, "precision": precision})
    if isinstance(model, nn.Module):
        name = settings.pop("name", type(model).__name__)
        about = {"model": "given:module", "name": name, **settings}
        section = _checked(spec.Backbone, about)
        view = backbones.preprocessing_of(section, model)
        copied = copy.deepcopy(unwrapped(model))
        loaded = Backbone(copied, section.name, view, section.taps, section.outputs).fold()
    else:
        section = (
            model
            if isinstance(model, spec.Backbone)
            else _checked(spec.Backbone, {"model": model, **settings})
        )
        loaded = backbones.load_backbone(section)
    return place(loaded, compute)


def train_head(
    backbone: Backbone,
    loader: Iterable[Any],
    explainer: str = "ttame",
    *,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **training: Any,
) -> Head:
    """Train an explainer's head on batches of images.

    The same images in the same order give the same head, whatever PyTorch's global seed is.

    Args:
        backbone: the frozen classifier.
        loader: iterable with a length, such as a torch DataLoader, that is walked through once an
            epoch. A batch is images (B, 3, H, W), or a tuple that begins with them; labels are not
            used.
        explainer: name of an explainer with a head.
        settings: the explainer's settings, as in a spec.
        progress: called with the step, the number of steps, and the losses in words.
        **training: keys of a spec's `training`, with the same defaults. Where `epochs` is given
            without `min_steps`, there are exactly that many epochs. `keep_gib` does nothing, since
            a loader may give other images in each epoch.

    Returns:
        The head in evaluation mode.

    Raises:
        UserError: the explainer has no head, the loader has no length or no batches, or a setting
            or an image is wrong.

    Examples:
        loader = DataLoader(ImageFolder(place, backbone.preprocessing.pixels), 32, shuffle=True)
        head = tt.train_head(backbone, loader, epochs=4)
    """
    untrained = make_explainer(backbone, explainer, settings=settings, needs_head=False)
    if not isinstance(untrained, Trained):
        raise UserError(f"{explainer} has no head to train: it explains without training")
    if "epochs" in training:
        training = {"min_steps": 0, **training}
    section = _checked(spec.Training, training)
    try:
        batches = len(loader)  # type: ignore[arg-type]
    except TypeError:
        raise UserError(
            "the loader has no length, which the step size follows: give a loader with `__len__`, "
            "or a list of batches"
        ) from None
    if not batches:
        raise UserError("the loader has no batches to train on: give it images")
    whole = untrained.training_of(section, untrained.settings.training)

    def images() -> Iterator[Tensor]:
        for batch in loader:
            yield _floats(batch if isinstance(batch, Tensor) else batch[0], backbone)

    def read(epoch: int, skip: int) -> Iterator[FirstPass]:
        return (first_pass(untrained, batch) for batch in images())

    run = HeadRun(untrained, whole, batches, images)
    run.train(read, f"the loader gave fewer batches than the {batches} that it says", progress)
    return run.head.eval()


def load_head(path: str | Path, backbone: Backbone, explainer: str = "ttame") -> Head:
    """Read a trained head from a file.

    Args:
        path: head.safetensors of a lake, or what `save_head` or `ttame import-head` wrote.
        backbone: the classifier that the head was trained on.
        explainer: name of the explainer that the head belongs to.

    Raises:
        UserError: the explainer has no head, or the head does not fit the backbone.
    """
    untrained = make_explainer(backbone, explainer, needs_head=False)
    if not isinstance(untrained, Trained):
        raise UserError(f"{explainer} has no head: it explains without training")
    return read_head(path, untrained, "give the head of this very backbone")


def save_head(head: Head, path: str | Path) -> None:
    """Write a head as a safetensors file, for `load_head` and for `head:` in a spec.

    Raises:
        UserError: the file cannot be written.
    """
    with writing(path) as file:
        file.write_bytes(head_bytes(head))


def make_explainer(
    backbone: Backbone,
    name: str,
    *,
    head: Head | None = None,
    settings: Mapping[str, Any] | None = None,
    needs_head: bool = True,
) -> Explainer:
    """Make an explainer of a backbone.

    Args:
        backbone: the classifier to explain.
        name: name of the explainer (`ttame explainers` lists them).
        head: trained head, for explainers that have one; it is copied.
        settings: the explainer's settings, as in a spec.
        needs_head: whether an explainer with a head must be given one.

    Raises:
        NotApplicable: the explainer cannot explain this backbone.
        UserError: the name or a setting is wrong, or the head is missing.
    """
    given = _checked(spec.Explainer, {"method": name, "settings": dict(settings or {})})
    section = complete_explainer(given)
    made = REGISTRY[name](backbone, section.settings)
    if isinstance(made, Trained) and head is not None:
        made.use(copy.deepcopy(head))
    elif isinstance(made, Trained) and needs_head:
        raise UserError(f"{name} needs a trained head: give `head` (tt.train_head, tt.load_head)")
    return made


def explain(
    backbone: Backbone,
    images: Tensor,
    explainer: str | Explainer = "ttame",
    *,
    head: Head | None = None,
    settings: Mapping[str, Any] | None = None,
    targets: Targets = "predicted",
    keys: Sequence[str] | None = None,
    boxes: Sequence[Tensor] | None = None,
    masks: Sequence[Tensor | None] | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Return explanation maps of images.

    Args:
        backbone: the classifier to explain.
        images: (B, 3, H, W), uint8 or float in [0, 1].
        explainer: name of an explainer, or what `make_explainer` returns.
        head: trained head, where `explainer` is the name of one that has a head.
        settings: the explainer's settings, where `explainer` is a name.
        targets: classes to explain: `predicted` (the class with the largest logit), `top-K`, a list
            of classes for all images, or an integer tensor (B,) or (B, T).
        keys: distinct names of the images, which the maps of `random` follow from; by default the
            numbers of the images.
        boxes: for each image (N, 4), the corners x0, y0, x1, y1 of its objects in pixels; only
            `oracle` reads boxes and masks. By default the boxes around the objects of `masks`.
        masks: for each image (H, W) integers, 0 outside the objects, or None.
        batch_size: number of images in a forward pass.

    Returns:
        Maps (B, h, w), or (B, T, h, w) for several targets, at the explainer's own resolution:
        float32 on the CPU, min–max normalised to [0, 1]. A map of NaN says that there is none.

    Raises:
        NotApplicable: the explainer cannot explain this backbone.
        UserError: an argument is wrong.
    """
    if isinstance(explainer, str):
        explainer = make_explainer(backbone, explainer, head=head, settings=settings)
    batch = _batch(images, backbone, keys, boxes, masks)
    if isinstance(targets, Tensor) and len(targets) != len(batch):
        raise UserError(
            f"there are {len(batch)} images, but {len(targets)} rows of targets: give one for each "
            "image"
        )
    parts = []
    for forward, places in _passes(backbone, batch, batch_size):
        chosen = _targets(targets, forward.logits, places, backbone)
        parts.append(min_max(explainer.attribute(forward, chosen)).float().cpu())
    maps = torch.cat(parts)
    single = targets == "predicted" if isinstance(targets, str) else _is_flat(targets)
    return maps[:, 0] if single else maps


@torch.no_grad()
def evaluate(
    backbone: Backbone,
    images: Tensor,
    maps: Tensor,
    metrics: Metrics = ("confidence",),
    *,
    targets: Targets = "predicted",
    explainer: Explainer | None = None,
    keys: Sequence[str] | None = None,
    boxes: Sequence[Tensor] | None = None,
    masks: Sequence[Tensor | None] | None = None,
    batch_size: int = 32,
) -> dict[str, Tensor]:
    """Score the maps of images.

    Args:
        backbone: the classifier that the maps explain.
        images: (B, 3, H, W), uint8 or float in [0, 1].
        maps: (B, h, w) in [0, 1], from `explain` or anywhere else; a map of NaN has no scores.
        metrics: names of families, or mappings from a name to settings, as in
            `["shape", {"confidence": {"keep": [15]}}]`.
        targets: classes that the maps explain: `predicted`, or an integer tensor (B,).
        explainer: what made the maps, from `make_explainer`, for the families that explain again
            (adcc, robustness, sanity).
        keys: distinct names of the images; by default their numbers.
        boxes: as in `explain`; read by `localization`.
        masks: as in `explain`; read by `localization`.
        batch_size: number of images in a forward pass.

    Returns:
        For each metric, by its name in the leaderboard (`AD@15`, `IC@50`, …), a tensor (B,) of
        float32 in the metric's unit; NaN where an image has no value. Metrics whose threshold is
        chosen over all images, such as `box_iou`, choose it over these images.

    Raises:
        UserError: an argument is wrong.

    Examples:
        scores = tt.evaluate(backbone, images, maps, ["confidence", "shape"])
        print({name: values.nanmean().item() for name, values in scores.items()})
    """
    chosen = [complete_metric(_checked(spec.Metric, metric)) for metric in metrics]
    families = [FAMILIES[metric.family](metric.settings) for metric in chosen]
    again = [family.name for family in families if family.reexplains]
    if again and explainer is None:
        raise UserError(
            f"the metric {again[0]} runs the explainer again: give `explainer`, such as "
            "tt.make_explainer(backbone, 'ttame', head=head)"
        )
    make = cache(partial(_on, cast(Explainer, explainer)))
    batch = _batch(images, backbone, keys, boxes, masks)
    if maps.ndim != 3 or len(maps) != len(batch):
        raise UserError(
            f"maps are {_shape(maps)}: they must be {len(batch)}×h×w, one for each image"
        )
    rows: dict[str, list[Row]] = {family.name: [] for family in families}
    for forward, places in _passes(backbone, batch, batch_size):
        classes = _targets(targets, forward.logits, places, backbone)
        mapped = _mapped(forward, maps[places], classes, backbone, batch_size, make)
        for family in families:
            rows[family.name] += family.score(mapped)
    tables = {
        name: pa.Table.from_pylist(_columns(scored, schema_of(name)), schema_of(name))
        for name, scored in rows.items()
    }
    scores: dict[str, Tensor] = {}
    position = {key: i for i, key in enumerate(batch.keys)}
    for key, metric, value in values_of(tables):
        scores.setdefault(metric, torch.full((len(batch),), torch.nan))[position[key]] = value
    return dict(sorted(scores.items()))


def query(workspace: str | Path | Lake, sql: str) -> pa.Table:
    """Run one SQL query that reads a workspace, such as a SELECT.

    Args:
        workspace: folder or URL of the lake.
        sql: the query; docs/sql.md lists the views.

    Returns:
        The answer as an Arrow table, for `.to_pandas()` or `polars.from_arrow`.

    Raises:
        UserError: the SQL is wrong or would write.
    """
    return run_query(workspace if isinstance(workspace, Lake) else Lake(workspace), sql)


def _checked(section: type[Any], given: Any) -> Any:
    """Make a section of a spec, or raise UserError with one sentence on what is wrong."""
    try:
        return section.model_validate(given)
    except ValidationError as error:
        raise UserError(spec.problem_of(error, section.model_fields)) from None


def _batch(
    images: Tensor,
    backbone: Backbone,
    keys: Sequence[str] | None,
    boxes: Sequence[Tensor] | None,
    masks: Sequence[Tensor | None] | None,
) -> Batch:
    """Make the batch that the loader of shards would make of these images, with float pixels."""
    floats = _floats(images, backbone)
    count = len(floats)
    for name, given in (("keys", keys), ("boxes", boxes), ("masks", masks)):
        if given is not None and len(given) != count:
            raise UserError(f"there are {len(given)} {name} for {count} images: give one for each")
    if keys is not None and len(set(keys)) != count:
        raise UserError("two of the images have the same key: each needs one of its own")
    objects: list[Tensor | None] = list(masks) if masks is not None else [None] * count
    return Batch(
        list(keys) if keys is not None else [str(i) for i in range(count)],
        floats,
        torch.zeros(count, 1, dtype=torch.int64),
        [b.float().cpu() for b in boxes] if boxes is not None else [_around(m) for m in objects],
        objects,
    )


def _around(mask: Tensor | None) -> Tensor:
    """Return the boxes (N, 4) around the objects of a mask."""
    boxes = mask_boxes(mask.cpu().numpy(), "") if mask is not None else []
    corners = [[box[corner] for corner in ("x0", "y0", "x1", "y1")] for box in boxes]
    return torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)


def _floats(images: Any, backbone: Backbone) -> Tensor:
    """Return images as (B, C, H, W) float32 in [0, 1] on the backbone's device."""
    shape = backbone.preprocessing.shape
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1:] != shape:
        given = _shape(images) if isinstance(images, Tensor) else type(images).__name__
        raise UserError(
            f"images are {given}, but {backbone.name} takes B×{'×'.join(map(str, shape))}: make "
            "them with backbone.preprocessing.pixels"
        )
    if images.dtype == torch.uint8:
        return images.to(backbone.device).float().div_(255)
    low, high = (float(end) for end in images.aminmax()) if images.numel() else (0.0, 1.0)
    if not images.is_floating_point() or low < 0 or high > 1:
        raise UserError(
            f"images are {images.dtype} from {low:g} to {high:g}: give uint8, or floats in [0, 1] "
            "that are not normalised yet"
        )
    return images.to(backbone.device, torch.float32)


def _passes(backbone: Backbone, batch: Batch, size: int) -> Iterator[tuple[ForwardPass, list[int]]]:
    """Yield forward passes over `size` images at a time, each with its images' positions."""
    for places in torch.arange(len(batch)).split(size):
        part = batch.at(places.tolist())
        yield forward_pass(backbone, part, part.images), places.tolist()


def _targets(targets: Targets, logits: Tensor, places: list[int], backbone: Backbone) -> Tensor:
    """Return the classes (B, T) to explain for the images at these positions of the batch."""
    if not isinstance(targets, Tensor):
        section = _checked(spec.Maps, {"targets": targets})
        if section.targets == "label":
            raise UserError(
                "targets='label' works in specs only, because images here have no labels: give the "
                "classes to explain as a tensor, targets=labels"
            )
        chosen_classes = target_classes(
            section.targets, backbone.classes.for_readers(backbone.num_classes)
        )
        return choose_targets(logits, torch.zeros(0), chosen_classes, backbone.name)
    chosen = targets[places].to(logits.device, torch.int64)
    if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < logits.shape[1]:
        raise UserError(
            f"targets run from {int(chosen.min())} to {int(chosen.max())}, but {backbone.name} has "
            f"the classes 0 to {logits.shape[1] - 1}"
        )
    return chosen.view(len(chosen), -1)


def _is_flat(targets: Tensor | list[int]) -> bool:
    return isinstance(targets, Tensor) and targets.ndim == 1


def _mapped(
    forward: ForwardPass,
    maps: Tensor,
    classes: Tensor,
    backbone: Backbone,
    batch_size: int,
    make: Callable[[Backbone], Explainer],
) -> MappedImages:
    """Bundle maps and their images for families of metrics; maps of NaN are left out.

    Metrics count only maps of the predicted class. So that all maps count, each target is recorded
    as predicted.
    """
    if classes.shape[1] != 1:
        raise UserError(
            "each map explains one class, but `targets` has several for an image: give a tensor "
            "(B,), one class for each map"
        )
    there = torch.nonzero(~maps.isnan().flatten(1).any(dim=1))[:, 0]
    probabilities = backbone.probabilities(forward.logits).gather(1, classes)[:, 0].tolist()
    rows = []
    for i in there.tolist():
        target = int(classes[i, 0])
        rows.append(
            {
                "key": forward.batch.keys[i],
                "label": target,
                "predicted": target,
                "target": target,
                "probability": probabilities[i],
            }
        )
    return MappedImages(
        rows,
        there,
        maps[there].to(backbone.device, torch.float32),
        forward.batch,
        forward.images,
        backbone,
        batch_size,
        make,
    )


def _on(explainer: Explainer, backbone: Backbone) -> Explainer:
    """Return a copy of an explainer for another backbone; for its own backbone, the explainer."""
    if backbone is explainer.backbone:
        return explainer
    twin = type(explainer)(backbone, explainer.settings.model_dump())
    if isinstance(explainer, Trained) and isinstance(twin, Trained):
        twin.head = explainer.head
    return twin


def _columns(rows: Iterable[Row], schema: pa.Schema) -> list[Row]:
    return [{name: row[name] for name in schema.names} for row in rows]


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape))
