"""What maps mark, pasted onto other pictures: is it enough to turn them into the class?

Where the maps of a class are alike, in place or in what they mark, the marked tenth of its pictures
is pasted onto pictures that the classifier takes for other classes, at the same place. So is, for
comparison, that of the pictures of the class whose maps are least like the others, and that of
pictures of a few other classes, which says what is usual.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import torch
from torch import Tensor

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.data.loader import load_samples
from ttame_core.lake import Lake
from ttame_core.metrics.base import Row
from ttame_core.metrics.marked import marked_pixels
from ttame_core.metrics.probe import Probe
from ttame_core.perturbation.masking import resize
from ttame_core.stages.roles import rivals

PATCHES = 4  # pictures of a class whose maps are most alike, and as many whose maps are least
PICTURES = 10  # pictures of other classes that each patch is pasted onto
CLASSES = 5  # classes that are pasted to see what is usual, at most


@dataclass(frozen=True)
class Pasting:
    """What is pasted of a class, and onto what.

    Attributes:
        target: number of the class, of the classifier's own.
        aspect: `place` or `look`, in which the maps of the class are alike; empty where the class
            stands for what is usual.
        sources: keys of the pictures whose marked parts are pasted, each with a word: `alike` for
            those whose maps are most like the others of the class, `unlike` for those whose maps
            are least, `usual` for any of a class that stands for what is usual.
        onto: keys of pictures that the classifier takes for other classes.
    """

    target: int
    aspect: str
    sources: Mapping[str, str]
    onto: Sequence[str]


@dataclass(frozen=True)
class Explained:
    """What an audit holds of one classifier: its pictures, and the maps of what it takes them for.

    Attributes:
        lake: the workspace.
        db: connection that sees the audit's maps.
        audit: the spec.
        backbone: the classifier, on its device.
    """

    lake: Lake
    db: duckdb.DuckDBPyConnection
    audit: spec.AuditSpec
    backbone: Backbone

    def pastings(self, alike: Sequence[Mapping[str, Any]]) -> Iterator[Pasting]:
        """Choose the pictures of each class whose maps are alike, and of a few others.

        Args:
            alike: a row for each picture of a class whose maps are alike (`class`, `aspect`,
                `key`), those whose maps are most like the others first; without any there is
                nothing to compare other classes with.
        """
        if not alike:
            return
        by_class: dict[tuple[str, str], list[str]] = {}
        for row in alike:
            by_class.setdefault((row["class"], row["aspect"]), []).append(row["key"])
        named = set()
        for (_, aspect), keys in by_class.items():
            few = min(PATCHES, len(keys) // 2)
            ((target,),) = self._rows("predicted FROM predicted_numbers", "key = ?", keys[0])
            sources = dict.fromkeys(keys[:few], "alike")
            sources |= dict.fromkeys(keys[len(keys) - few :], "unlike")
            yield Pasting(target, aspect, sources, self._onto(target))
            named.add(target)
        for target, keys in self._rows(
            f"predicted, list(key ORDER BY md5(key), key)[:{PATCHES}] FROM predicted_numbers",
            "NOT list_contains(?, predicted) GROUP BY predicted "
            f"ORDER BY md5(predicted::VARCHAR) LIMIT {CLASSES}",
            sorted(named),
        ):
            yield Pasting(target, "", dict.fromkeys(keys, "usual"), self._onto(target))

    def paste(self, pasting: Pasting) -> Iterator[Row]:
        """Yield the rows of one class (schema PASTED)."""
        images = self.images([*pasting.sources, *pasting.onto])
        marks = self._marks(images)
        sources = [key for key in pasting.sources if key in marks]
        if not sources or not pasting.onto:
            return

        def stacked(tensors: Mapping[str, Tensor], keys: Sequence[str]) -> Tensor:
            return torch.stack([tensors[key] for key in keys]).to(self.backbone.device)

        onto = stacked(images, pasting.onto)
        targets = torch.full((len(onto),), pasting.target, device=self.backbone.device)
        probe = Probe(self.backbone, onto, targets, self.audit.compute.batch_size)
        answers = pasted(probe, stacked(images, sources), stacked(marks, sources)).tolist()
        for key, (before, *after) in zip(pasting.onto, answers, strict=True):
            for source, probability in zip(sources, after, strict=True):
                yield {
                    "target": pasting.target,
                    "aspect": pasting.aspect,
                    "source": source,
                    "maps": pasting.sources[source],
                    "key": key,
                    "before": before,
                    "after": probability,
                }

    def some_keys(self, most: int) -> list[str]:
        """Return the keys of up to `most` explained pictures, of as few shards as there can be."""
        first = f"true ORDER BY md5(shard), shard, md5(key), key LIMIT {most}"
        explained = "key FROM predicted_numbers JOIN samples USING (dataset, key)"
        return [key for (key,) in self._rows(explained, first)]

    def _onto(self, target: int) -> list[str]:
        """Return the keys of pictures that the classifier takes for other classes than this."""
        first = f"predicted <> ? ORDER BY md5(key), key LIMIT {PICTURES}"
        return [key for (key,) in self._rows("key FROM predicted_numbers", first, target)]

    def _rows(self, columns: str, condition: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return columns of a view, of the rows of this data set and classifier."""
        sql = f"SELECT {columns} WHERE dataset = ? AND backbone = ? AND {condition}"
        names = [self.audit.dataset.name, self.backbone.name]
        return self.db.execute(sql, [*names, *values]).fetchall()

    def images(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Return pictures as the classifier sees them, (C, H, W) in [0, 1], by their keys."""
        if not keys:
            return {}
        dataset = self.audit.dataset.name
        sql = "SELECT shard, key FROM samples WHERE dataset = ? AND list_contains(?, key)"
        by_shard: dict[str, set[str]] = {}
        for shard, key in self.db.execute(sql, [dataset, keys]).fetchall():
            by_shard.setdefault(shard, set()).add(key)
        batch = load_samples(self.lake, dataset, by_shard, self.backbone.preprocessing)
        return dict(zip(batch.keys, batch.float_images(), strict=True))

    def labels(self, keys: Sequence[str]) -> dict[str, int]:
        """Return the labels of pictures that have one, as numbers of the classifier's classes."""
        labelled = "label IS NOT NULL AND list_contains(?, key)"
        return dict(self._rows("key, label FROM predicted_numbers", labelled, keys))

    def _marks(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tenth of the pixels that the rivals mark on average, (H, W) bool, by key."""
        wanted = "target = predicted AND list_contains(?, explainer) AND list_contains(?, key)"
        sums: dict[str, Tensor] = {}
        for key, height, width, values in self._rows(
            "key, height, width, map FROM maps",
            f"{wanted} ORDER BY explainer, key",
            rivals(self.audit),
            list(images),
        ):
            own = torch.tensor(values, dtype=torch.float32).view(1, 1, height, width)
            large = resize(own, images[key].shape[-2:])[0, 0]
            sums[key] = sums[key] + large if key in sums else large
        return {key: marked_pixels(total[None])[0] for key, total in sums.items()}


def pasted(probe: Probe, patches: Tensor, marks: Tensor) -> Tensor:
    """Return the probability of a class before and after each patch is pasted onto pictures.

    Args:
        probe: M pictures with the class as their target, and the classifier.
        patches: (V, C, H, W) in [0, 1], pictures of which a part is pasted.
        marks: (V, H, W) bool, the part of each, which lands at the same place.

    Returns:
        (M, 1 + V) float32; the first column is for the pictures as they are.
    """
    parts = torch.cat([torch.zeros_like(marks[:1]), marks])[:, None]
    sources = torch.cat([patches[:1], patches])

    def make(image: Tensor, variant: Tensor) -> Tensor:
        changed = torch.where(parts[variant], sources[variant], probe.images[image])
        return probe.backbone.normalise(changed)

    return probe.ask(len(parts), make)[0]
