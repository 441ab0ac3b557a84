"""The choice of maps and scores, out of all that a lake holds, that belongs to an audit.

A workspace also holds those of other splits, of explainers that have left the spec since, whose
classifier may be another by now, and of metrics that are no longer asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ttame_core import spec


@dataclass(frozen=True)
class Selection:
    """The maps and scores that belong to an audit.

    Attributes:
        dataset: name of the data set.
        split: that is explained.
        backbones: their names.
        explainers: their names.
        families: names of the families of scores.
    """

    dataset: str
    split: str
    backbones: Collection[str]
    explainers: Collection[str]
    families: Collection[str]

    @classmethod
    def of(cls, audit: spec.AuditSpec) -> Selection:
        """Return the choice that a spec makes."""
        return cls(
            audit.dataset.name,
            audit.maps.split,
            {b.name for b in audit.backbones},
            {e.name for e in audit.explainers},
            {"cost", *(m.family for m in audit.evaluation.metrics)},
        )

    def includes(self, path: str) -> bool:
        """Say whether a file of maps, of scores or about an explainer belongs to it."""
        kind, *folders, name = path.split("/")
        of = dict(folder.split("=", 1) for folder in folders)
        return (
            (kind != "scores" or of["metric"] in self.families)
            and of["dataset"] == self.dataset
            and of["backbone"] in self.backbones
            and of["explainer"] in self.explainers
            and (kind == "explainers" or name.startswith(f"{self.split}-"))
        )

    def files(self, pattern: str) -> str:
        """Narrow the pattern of a kind's files to this split."""
        return pattern.removesuffix("*.parquet") + f"{self.split}-*.parquet"
