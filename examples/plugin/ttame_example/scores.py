"""What the lake must know of the family `centroid`. Nothing here imports torch."""

from __future__ import annotations

from importlib import resources

from ttame_core.lake.families import Scores

CENTROID = Scores.from_sql(resources.files("ttame_example").joinpath("centroid.sql").read_text())
