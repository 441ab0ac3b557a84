"""The selection of an audit's maps and scores from all that a lake holds.

A workspace may also hold maps and scores of other splits, of explainers that are no longer in the
spec (and may explain an older classifier), and of metrics that are no longer asked for.
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
        split: name of the split that is explained.
        backbones: names of the backbones.
        explainers: names of the explainers.
        families: names of the families of scores.
    """

    dataset: str
    split: str
    backbones: Collection[str]
    explainers: Collection[str]
    families: Collection[str]

    @classmethod
    def of(cls, audit: spec.AuditSpec) -> Selection:
        """Return the maps and scores that a spec asks for."""
        return cls(
            audit.dataset.name,
            audit.maps.split,
            {b.name for b in audit.backbones},
            {e.name for e in audit.explainers},
            {"cost", *(m.family for m in audit.evaluation.metrics)},
        )

    def includes(self, path: str) -> bool:
        """Say whether a file of maps, of scores or about an explainer belongs to the audit."""
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
        """Narrow a pattern of files to the audit's split.

        Args:
            pattern: pattern of paths that ends in `*.parquet`.
        """
        return pattern.removesuffix("*.parquet") + f"{self.split}-*.parquet"
