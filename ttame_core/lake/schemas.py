"""Arrow schemas of the lake's Parquet files."""

from __future__ import annotations

import pyarrow as pa

from ttame_core.lake.map_values import STORED

REFUSED = "ttame.not_applicable"  # metadata of a file without rows: why there are none
HEAD = "ttame.head"  # metadata of a head's history: SHA-256 of the head's file
WEIGHTS = "ttame.weights"  # metadata of a maps file: hash of the classifier's weights

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


def maps_schema(height: int, width: int, dtype: str = "float16") -> pa.Schema:
    """A row per image and target class; map: row-major in [0, 1], at the explainer's resolution.

    probability: softmax of the target class on the whole image. dtype: as a spec's maps.dtype.
    """
    column, values = STORED[dtype]
    return pa.schema(
        [
            *PREDICTION,
            ("probability", pa.float32()),
            ("height", pa.int16()),
            ("width", pa.int16()),
            (column, pa.list_(values, height * width)),
        ]
    )


# Roles of explainers: those that compete; what they are measured by, which wins and loses nothing;
# and heads trained on permuted labels, whose maps should not be like those of heads of true labels.
RIVAL, YARDSTICK, CONTROL = "rival", "yardstick", "control"

# One row: what an explainer of the lake is. method: as a spec has it, whatever the explainer is
# called. control_of: of a control, the name of the explainer whose maps its own are held against;
# null for others, and where no such explainer stands in the spec.
EXPLAINERS = pa.schema(
    [("method", pa.string()), ("role", pa.string()), ("control_of", pa.string())]
)

# A row per recorded step of a training and term of its loss (`loss`: their sum), and per validation
# and metric (AD@15, accuracy).
HISTORY = pa.schema(
    [
        ("epoch", pa.int32()),
        ("step", pa.int32()),
        ("term", pa.string()),
        ("value", pa.float32()),
    ]
)
# Earlier files have a column per loss term, and name a metric in another.
ANY_HISTORY = pa.schema(
    [
        *HISTORY,
        ("loss", pa.float32()),
        ("variation", pa.float32()),
        ("area", pa.float32()),
        ("confidence", pa.float32()),
        ("metric", pa.string()),
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

BACKBONE = "-"  # the explainer of what is a backbone's own

# A row per metric of a backbone and an explainer, with its 95 % interval, in the unit that
# the view `metrics` gives. method, role: of the explainer, as in EXPLAINERS; null where the metric
# is a backbone's own.
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
        ("method", pa.string()),
        ("role", pa.string()),
    ]
)

# A row per image and metric, of at most report.record.RECORDED images.
AUDIT_VALUES = pa.schema(
    [
        ("dataset", pa.string()),
        ("backbone", pa.string()),
        ("explainer", pa.string()),
        ("metric", pa.string()),
        ("key", pa.string()),
        ("value", pa.float32()),
    ]
)

# What changed since the last audit of the same name, and whether the spec's gates hold: a row per
# gate, backbone, explainer and metric that it checks, and without a gate ('') one for each
# principal metric whose change is beyond chance. explainer: '-' for what is a backbone's own.
# previous, value: of the two audits, in the metric's unit, and change: the second less the first,
# with its 95 % paired bootstrap interval; null where nothing is compared. words: one sentence.
AUDIT_CHANGES = pa.schema(
    [
        ("gate", pa.string()),
        ("backbone", pa.string()),
        ("explainer", pa.string()),
        ("metric", pa.string()),
        ("previous", pa.float64()),
        ("value", pa.float64()),
        ("change", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("failed", pa.bool_()),
        ("words", pa.string()),
    ]
)

# Each map of the images of AUDIT_VALUES at 14×14, as in the family shape, in half precision.
AUDIT_THUMBNAILS = pa.schema(
    [
        ("backbone", pa.string()),
        ("explainer", pa.string()),
        ("key", pa.string()),
        ("thumbnail", pa.list_(pa.float16(), 196)),
    ]
)
