"""A shard of a data set in a lake: its images, and the files that stages make from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ttame_core import spec
from ttame_core.backbones import Preprocessing
from ttame_core.data.loader import Batch, load_batches
from ttame_core.data.matching import Match
from ttame_core.lake import Lake, maps_file, scores_file


@dataclass(frozen=True)
class StoredShard:
    """A shard of a data set in a lake.

    Attributes:
        lake: the workspace.
        dataset: name of the data set.
        name: name of the shard, such as `test-000000`.
        match: match of classes by which labels are translated; None: they stay as stored.
    """

    lake: Lake
    dataset: str
    name: str
    match: Match | None = None

    def batches(self, view: Preprocessing, compute: spec.Compute) -> Iterator[Batch]:
        """Yield the shard's images in their order, decoded ahead in threads.

        Their labels are classes of the classifier.
        """
        for batch in load_batches(
            self.lake, self.dataset, [self.name], view, compute.batch_size, compute.workers
        ):
            labels = self.match.translate(batch.labels) if self.match else batch.labels
            yield replace(batch, labels=labels)

    def maps_file(self, backbone: str, explainer: str) -> str:
        """Return the path in the lake of an explainer's maps of this shard."""
        return maps_file(self.dataset, backbone, explainer, self.name)

    def scores_file(self, family: str, backbone: str, explainer: str) -> str:
        """Return the path in the lake of a family's scores of an explainer's maps."""
        return scores_file(family, self.dataset, backbone, explainer, self.name)
