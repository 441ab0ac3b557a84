"""What the lake must know of the family `centroid`. Nothing here imports torch."""

from __future__ import annotations

from importlib import resources

import pyarrow as pa

from ttame_core.lake.families import Metric, Scores

CENTROID = Scores(
    columns=[("x", pa.float32()), ("y", pa.float32()), ("distance", pa.float32())],
    values=resources.files("ttame_example").joinpath("centroid.sql").read_text(),
    metrics=[
        Metric(
            "centroid_distance",
            lower_is_better=True,
            description="from the map's middle to the nearest object's, of the diagonal",
            unit="%",
        )
    ],
)
