"""Arrow schemas of the lake's Parquet files."""

from __future__ import annotations

import pyarrow as pa

BOX = pa.struct(
    [
        ("name", pa.string()),
        ("x0", pa.float32()),
        ("y0", pa.float32()),
        ("x1", pa.float32()),
        ("y1", pa.float32()),
    ]
)

# A row per sample. width, height: pixels of the picture as displayed (EXIF applied).
INDEX = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("shard", pa.string()),
        ("label", pa.int32()),
        ("class", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("path", pa.string()),
    ]
)

# A row per box: pixels of the picture as displayed, far edges exclusive.
ANNOTATIONS = pa.schema(
    [
        ("key", pa.string()),
        ("object", pa.int32()),
        ("name", pa.string()),
        ("x0", pa.float32()),
        ("y0", pa.float32()),
        ("x1", pa.float32()),
        ("y1", pa.float32()),
    ]
)

# A row per input not taken. kind: image, annotation or folder.
REJECTED = pa.schema([("path", pa.string()), ("kind", pa.string()), ("reason", pa.string())])

# A row per shard. sha256: of the tar; samples: how many it holds.
SHARDS = pa.schema(
    [
        ("shard", pa.string()),
        ("split", pa.string()),
        ("samples", pa.int32()),
        ("sha256", pa.string()),
    ]
)

PREDICTION = [
    ("key", pa.string()),
    ("label", pa.int32()),
    ("predicted", pa.int32()),
    ("target", pa.int32()),
]


def maps_schema(height: int, width: int) -> pa.Schema:
    """A row per image and target class; map: row-major in [0, 1], at the explainer's resolution.

    probability: softmax of the target class on the whole image.
    """
    return pa.schema(
        [
            *PREDICTION,
            ("probability", pa.float32()),
            ("height", pa.int16()),
            ("width", pa.int16()),
            ("map", pa.list_(pa.float16(), height * width)),
        ]
    )


# Families of scores. In confidence, a row per map, kept percentage and fill: p, p_masked: softmax
# of the target on the whole and on the masked image. In localization, a row per map of an annotated
# image; box_iou: at each of metrics.localization.THRESHOLDS. In cost, a row per map: seconds, and
# passes through the classifier, of the batch by its maps, the shared forward pass included.
# In road, a row per map, order and percentage of removed pixels: p: softmax of the target, kept:
# whether it is still predicted. In curves, a row per map, curve and fill: probabilities: softmax of
# the target after each step, the first before any; auc: the area under them, in [0, 1].
SCORES = {
    "confidence": pa.schema(
        [
            *PREDICTION,
            ("keep", pa.float32()),
            ("fill", pa.string()),
            ("p", pa.float32()),
            ("p_masked", pa.float32()),
        ]
    ),
    "localization": pa.schema(
        [
            *PREDICTION,
            ("pointing_game", pa.bool_()),
            ("energy_in_box", pa.float32()),
            ("box_iou", pa.list_(pa.float32())),
        ]
    ),
    "cost": pa.schema(
        [
            *PREDICTION,
            ("seconds", pa.float32()),
            ("forward_passes", pa.float32()),
            ("backward_passes", pa.float32()),
        ]
    ),
    "road": pa.schema(
        [
            *PREDICTION,
            ("order", pa.string()),
            ("removed", pa.float32()),
            ("p", pa.float32()),
            ("kept", pa.bool_()),
        ]
    ),
    "curves": pa.schema(
        [
            *PREDICTION,
            ("curve", pa.string()),
            ("fill", pa.string()),
            ("auc", pa.float32()),
            ("probabilities", pa.list_(pa.float32())),
        ]
    ),
}

# A row per training step of a head, and one per validation (loss columns null).
HISTORY = pa.schema(
    [
        ("epoch", pa.int32()),
        ("step", pa.int32()),
        ("loss", pa.float32()),
        ("variation", pa.float32()),
        ("area", pa.float32()),
        ("confidence", pa.float32()),
        ("metric", pa.string()),
        ("value", pa.float32()),
    ]
)

# A row per metric of one trial of a sweep, and the training settings that were swept.
SWEEPS = pa.schema(
    [
        ("learning_rate", pa.float64()),
        ("lambda_variation", pa.float64()),
        ("lambda_area", pa.float64()),
        ("lambda_confidence", pa.float64()),
        ("epochs", pa.int32()),
        ("metric", pa.string()),
        ("value", pa.float32()),
    ]
)

# A row per metric of a backbone and an explainer, in percent, with its 95 % interval.
LEADERBOARD = pa.schema(
    [
        ("dataset", pa.string()),
        ("backbone", pa.string()),
        ("explainer", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("images", pa.int64()),
    ]
)
