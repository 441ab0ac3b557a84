"""Writing of maps: one shard and one backbone, and a Parquet file for each explainer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.classes import ClassList
from ttame_core.backbones.outputs import HALF
from ttame_core.data.labels import UNKNOWN
from ttame_core.errors import UserError
from ttame_core.explainers import Cost, Explainer, ForwardPass, forward_pass, measure
from ttame_core.lake import Lake, fingerprint
from ttame_core.lake.families import schema_of
from ttame_core.lake.map_values import column_of, dtype_of, restore, store
from ttame_core.lake.schemas import HEAD, LOST, PREDICTION, REFUSED, WEIGHTS, maps_schema
from ttame_core.lake.store import FINGERPRINT, MADE_FROM, RowGroups
from ttame_core.perturbation.masking import min_max
from ttame_core.stages.shard import StoredShard

ImagesDone = Callable[[int], None]  # called with the number of images that are done
ABOVE = "above-"  # begins targets whose probability is above a threshold
ALL = 2**62  # more images than any shard holds


@dataclass(frozen=True)
class WantedMaps:
    """A file of maps to make, of one explainer.

    Attributes:
        name: name of the explainer in the lake.
        explainer: explainer that makes the maps.
        made_from: description of what makes the file, for its fingerprint.
        images: number of images of the shard, from its first, that are explained.
        dtype: number format of stored maps, as a spec's `maps.dtype` names it.
        head: SHA-256 of the file of the explainer's head; "" where it has none.
    """

    name: str
    explainer: Explainer
    made_from: Any
    images: int = ALL
    dtype: str = "float16"
    head: str = ""


def explain_shard(
    shard: StoredShard,
    backbone: Backbone,
    wanted: Sequence[WantedMaps],
    targets: str | list[int],
    compute: spec.Compute,
    progress: ImagesDone | None = None,
) -> None:
    """Write the maps of one shard: a file for each explainer, a row for each image and target.

    One forward pass over a batch serves for predictions, probabilities and all explainers. While
    the device computes, threads decode the next batches, and another thread writes. The cost of
    each explainer is written as scores of the family `cost`.

    Args:
        shard: shard whose images are explained.
        backbone: the classifier, on its device.
        wanted: files to make.
        targets: `predicted`, `above-P`, `label`, `top-K`, or a list of classes for all images.
        compute: batch size, and number of threads that decode.
        progress: called after each batch with the number of images that are done.
    """
    batches = shard.batches(backbone.preprocessing, compute)
    about = {
        "preprocessing": json.dumps(asdict(backbone.preprocessing)),
        WEIGHTS: backbone.weights,
    }
    most = max(maps.images for maps in wanted)
    for order in wanted:
        _remove_other_scores(shard, backbone.name, order.name, order.made_from)
    with ExitStack() as files, ThreadPoolExecutor(1, thread_name_prefix="write") as writing:
        opened: dict[str, tuple[RowGroups, RowGroups]] = {}
        lost: Counter[str] = Counter()  # maps that are not finite, by explainer
        pending: list[Future[None]] = []

        def writers(order: WantedMaps, height: int, width: int) -> tuple[RowGroups, RowGroups]:
            if order.name not in opened:
                # What is opened last is closed first: maps appear only after their costs.
                names = backbone.name, order.name
                schema, made_from = maps_schema(height, width, order.dtype), order.made_from
                create = shard.lake.create_parquet
                own = {HEAD: order.head} if order.head else {}
                maps = create(shard.maps_file(*names), schema, made_from, **about, **own)
                costs = create(shard.scores_file("cost", *names), schema_of("cost"), made_from)
                opened[order.name] = files.enter_context(maps), files.enter_context(costs)
            return opened[order.name]

        done = 0
        for batch in batches if most else ():
            with measure(backbone) as shared:
                forward = forward_pass(backbone, batch)
            _check_logits(forward, backbone.name)
            everything, wanted_ones = _targets(backbone, forward, targets)
            for order in wanted:
                if done >= order.images:
                    continue
                part = forward.first(order.images - done)
                chosen = everything[: len(part.batch)]
                with measure(backbone) as own:
                    maps = min_max(order.explainer.attribute(part, chosen)).cpu()
                maps = maps.masked_fill(~wanted_ones[: len(chosen), :, None, None], torch.nan)
                to_maps, to_costs = writers(order, *maps.shape[-2:])
                rows = _rows(backbone, part, chosen.cpu(), maps, to_maps.schema, threshold(targets))
                if not order.explainer.may_lack_maps:
                    lost[order.name] += int(wanted_ones[: len(chosen)].sum()) - rows.num_rows
                costs = _costs(rows, shared, len(batch), own, chosen.numel())
                pending += [writing.submit(to_maps.write, rows)]
                pending += [writing.submit(to_costs.write, costs)]
            while len(pending) > 4 * len(wanted):
                pending.pop(0).result()
            done += len(batch)
            if progress:
                progress(done)
            if done >= most:
                break
        for future in pending:
            future.result()
        for order in wanted:
            to_maps, _ = writers(order, 1, 1)  # a file without rows, if there were no images
            if lost[order.name]:
                to_maps.about[LOST] = str(lost[order.name])


def write_refusal(
    shard: StoredShard, backbone: str, explainer: str, made_from: Any, reason: str
) -> None:
    """Write the maps file of an explainer that does not apply, without rows but with the reason."""
    _remove_other_scores(shard, backbone, explainer, made_from)
    for path, schema in (
        (shard.scores_file("cost", backbone, explainer), schema_of("cost")),
        (shard.maps_file(backbone, explainer), maps_schema(1, 1)),
    ):
        shard.lake.write_parquet(path, [], schema, made_from, **{REFUSED: reason})


def _remove_other_scores(shard: StoredShard, backbone: str, explainer: str, made_from: Any) -> None:
    """Remove the scores of a shard's maps where they were made from other maps than the new ones.

    The new maps will replace the old file, and old scores beside it would seem to be theirs.

    Args:
        shard: the shard.
        backbone: name of the backbone.
        explainer: name of the explainer.
        made_from: description of what makes the new maps.
    """
    paths = shard.lake.glob(shard.scores_file("*", backbone, explainer))
    for path, about in zip(paths, shard.lake.metadata_of(paths), strict=True):
        scored = json.loads(about.get(MADE_FROM.decode(), "null"))
        if isinstance(scored, dict) and scored.get("maps") not in (None, fingerprint(made_from)):
            shard.lake.remove(path)


def target_classes(targets: str | list[int | str], classes: ClassList) -> str | list[int]:
    """Return targets in which the names of classes are numbers.

    Args:
        targets: as a spec's `maps.targets`.
        classes: what the classifier calls its classes.

    Raises:
        UserError: no class, or more than one, has such a name.
    """
    if isinstance(targets, str):
        return targets
    return [t if isinstance(t, int) else classes.number_of(t) for t in targets]


def threshold(targets: str | list[int]) -> float:
    """Return the probability above which a class counts as predicted, where it excludes no other.

    Args:
        targets: as a spec's `maps.targets`; only `above-P` gives one of its own.
    """
    if isinstance(targets, str) and targets.startswith(ABOVE):
        return float(targets.removeprefix(ABOVE))
    return HALF


def _are_predicted(targets: str | list[int]) -> bool:
    """Say whether the classifier chooses the targets, by its probabilities."""
    return isinstance(targets, str) and (targets == "predicted" or targets.startswith(ABOVE))


def choose_targets(
    logits: Tensor, labels: Tensor, targets: str | list[int], backbone: str
) -> Tensor:
    """Return the classes to explain, but for those that `Outputs.predicted` chooses.

    Args:
        logits: (B, K).
        labels: (B, L), for `label`.
        targets: `label`, `top-K`, or a list of T classes; `predicted` and `above-P` for the most
            probable class alone.
        backbone: name of the backbone, for errors.

    Returns:
        (B, T) int64; of `label` the labels, and UNKNOWN where an image has fewer than others.

    Raises:
        UserError: the backbone has no such class.
    """
    classes = logits.shape[1]
    if _are_predicted(targets):
        return logits.argmax(dim=1, keepdim=True)
    if targets == "label":
        if (labels == UNKNOWN).all(dim=1).any():
            raise UserError(
                f"maps.targets is label, but not all images have a label that {backbone} knows: "
                "say `targets: predicted`"
            )
        return labels.to(logits.device)
    if isinstance(targets, str):
        count = int(targets.removeprefix("top-"))
        if count > classes:
            raise UserError(f"maps.targets is {targets}, but {backbone} has {classes} classes")
        return logits.topk(count, dim=1).indices
    beyond = [t for t in targets if not 0 <= t < classes]
    if beyond:
        raise UserError(
            f"maps.targets names class {beyond[0]}, but {backbone} has the classes 0 to "
            f"{classes - 1}"
        )
    return torch.tensor(targets, device=logits.device).expand(len(logits), -1)


def _targets(
    backbone: Backbone, forward: ForwardPass, targets: str | list[int]
) -> tuple[Tensor, Tensor]:
    """Return the classes to explain, (B, T) int64, and which of them get a map, (B, T) bool.

    T is the largest number of classes of an image in the batch. A classifier whose classes do not
    exclude each other predicts several for one image and fewer for another; the rows of the others
    are filled up with classes that get no map. The second tensor is on the CPU.
    """
    if _are_predicted(targets):
        classes, wanted = backbone.outputs.predicted(forward.logits, threshold(targets))
        return classes, wanted.cpu()
    labels = forward.batch.labels
    classes = choose_targets(forward.logits, labels, targets, backbone.name)
    return classes.clamp(min=0), (classes != UNKNOWN).cpu()


def _check_logits(forward: ForwardPass, backbone: str) -> None:
    """Check that the logits of a classifier are finite numbers, or raise UserError."""
    finite = forward.logits.isfinite().all(dim=1)
    if not finite.all():
        key = forward.batch.keys[int((~finite).nonzero()[0])]
        raise UserError(
            f"backbone {backbone} gives logits that are not finite, first for the image {key}: "
            "check its weights and its `preprocessing`"
        )


def _rows(
    backbone: Backbone,
    forward: ForwardPass,
    targets: Tensor,
    maps: Tensor,
    schema: pa.Schema,
    above: float,
) -> pa.RecordBatch:
    """Return the rows of one batch; images without a map (NaN) have none.

    Where classes do not exclude each other, each with a probability above `above` counts as
    predicted. Of an image's several labels, a row has the one that its predicted class is, or the
    first where it is none of them.
    """
    images, columns = torch.nonzero(~maps.isnan().flatten(2).any(dim=2), as_tuple=True)
    probabilities = backbone.probabilities(forward.logits).cpu()
    best = probabilities.argmax(dim=1)[images]
    height, width = maps.shape[-2:]
    kept = schema.field(-1).type
    values = store(maps[images, columns].float().numpy(), kept.value_type).reshape(-1)
    chosen = targets[images, columns]
    predicted = chosen.where(backbone.outputs.predict(probabilities[images], chosen, above), best)
    labels = own_label(forward.batch.labels[images], predicted).numpy().astype(np.int32)
    return pa.record_batch(
        [
            pa.array([forward.batch.keys[i] for i in images.tolist()], pa.string()),
            pa.array(labels, pa.int32(), mask=labels == UNKNOWN),
            predicted.numpy().astype(np.int32),
            chosen.numpy().astype(np.int32),
            probabilities[images, chosen].numpy(),
            np.full(len(images), height, np.int16),
            np.full(len(images), width, np.int16),
            pa.FixedSizeListArray.from_arrays(pa.array(values, kept.value_type), type=kept),
        ],
        schema=schema,
    )


def own_label(labels: Tensor, predicted: Tensor) -> Tensor:
    """Return the label (R,) that a predicted class is compared with.

    Args:
        labels: (R, L) labels of an image, which UNKNOWN fills up.
        predicted: (R,) predicted classes.

    Returns:
        The predicted class where it is among the labels, else the first label that the classifier
        knows; UNKNOWN where there is none.
    """
    known = labels != UNKNOWN
    first = labels.gather(1, known.int().argmax(dim=1, keepdim=True))[:, 0]
    return predicted.where((labels == predicted[:, None]).any(dim=1), first)


def _costs(rows: pa.RecordBatch, shared: Cost, images: int, own: Cost, maps: int) -> pa.RecordBatch:
    """Return each map's cost: equal shares of the pass for all explainers and of the own cost."""
    values = (
        np.full(rows.num_rows, theirs / images + its / maps, np.float32)
        for theirs, its in (
            (shared.seconds, own.seconds),
            (shared.forward, own.forward),
            (shared.backward, own.backward),
        )
    )
    identity = [rows.column(name) for name, _ in PREDICTION]
    return pa.record_batch([*identity, *map(pa.array, values)], schema=schema_of("cost"))


def read_maps(
    lake: Lake, path: str, made_by: str | None = None
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Yield the rows of a maps file, one row group in memory at a time, each with its map.

    Args:
        lake: the workspace.
        path: path of the file.
        made_by: fingerprint that the file must have; None for any.

    Yields:
        The columns beside the map, and `dtype`, the number format of the stored map (a spec's
        `maps.dtype`); and the map (h, w), float32 in [0, 1].

    Raises:
        UserError: the file is not as it was written.
        RuntimeError: the file has another fingerprint, because a worker of an earlier run replaced
            it.
    """
    lake.check([path])
    with lake.open(path) as stream:
        file = pq.ParquetFile(stream)
        stored = (file.schema_arrow.metadata or {}).get(FINGERPRINT, b"").decode()
        if made_by not in (None, stored):
            raise RuntimeError(f"the maps at {path} were replaced by others")
        column, dtype = column_of(file.schema_arrow), dtype_of(file.schema_arrow)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            flat = restore(table.column(column).combine_chunks(), column)
            rows = [{**row, "dtype": dtype} for row in table.drop_columns([column]).to_pylist()]
            if rows:
                shape = (len(rows), rows[0]["height"], rows[0]["width"])
                maps = torch.from_numpy(flat.reshape(shape))
                yield from zip(rows, maps, strict=True)
