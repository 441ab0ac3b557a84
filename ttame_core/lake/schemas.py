"""Arrow schemas of the lake's Parquet files."""

from __future__ import annotations

import pyarrow as pa

from ttame_core.lake.map_values import STORED

REFUSED = "ttame.not_applicable"  # metadata of a file without rows: why there are none
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


# Families of scores. In confidence, a row per map, kept percentage and fill: p, p_masked: softmax
# of the target on the whole and on the masked image. In localization, a row per map of an annotated
# image; object_share: of the view, under its objects; weighting_game and average_precision: null
# without a mask; the lists: at each of metrics.localization.THRESHOLDS, box_iou of the largest
# component and best_box_iou of the one that fits best. In shape, a row per map; thumbnail: 14×14,
# row by row, centred, of unit norm. In adcc and robustness, a row per map. In sanity, a row per map
# and step; randomised: `classifier` or `head`; depth: of the classifier's layers, from 0, the last
# alone, to 1, all. In road, a row per map, order and percentage of removed pixels; p: of the
# target; kept: whether it is still predicted. In curves, a row per map, curve and fill;
# probabilities: softmax of the target after each step, the first before any; auc: the area under
# them, in [0, 1]. In cost, a row per map: seconds, and passes through the classifier, of the batch
# by its maps, the shared forward pass included.
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
            ("object_share", pa.float32()),
            ("pointing_game", pa.bool_()),
            ("energy_in_box", pa.float32()),
            ("weighting_game", pa.float32()),
            ("average_precision", pa.float32()),
            ("pixel_iou", pa.list_(pa.float32())),
            ("box_iou", pa.list_(pa.float32())),
            ("best_box_iou", pa.list_(pa.float32())),
        ]
    ),
    "shape": pa.schema(
        [
            *PREDICTION,
            ("complexity", pa.float32()),
            ("sparseness", pa.float32()),
            ("thumbnail", pa.list_(pa.float32(), 196)),
        ]
    ),
    "adcc": pa.schema(
        [
            *PREDICTION,
            ("coherency", pa.float32()),
            ("complexity", pa.float32()),
            ("drop", pa.float32()),
        ]
    ),
    "robustness": pa.schema([*PREDICTION, ("max_sensitivity", pa.float32())]),
    "sanity": pa.schema(
        [
            *PREDICTION,
            ("randomised", pa.string()),
            ("depth", pa.float32()),
            ("rank_correlation", pa.float32()),
            ("ssim", pa.float32()),
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
# sql/directions.sql gives. method, role: of the explainer, as in EXPLAINERS; null where the metric
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

# Each map of the images of AUDIT_VALUES at 14×14, as in SCORES["shape"], in half precision.
AUDIT_THUMBNAILS = pa.schema(
    [
        ("backbone", pa.string()),
        ("explainer", pa.string()),
        ("key", pa.string()),
        ("thumbnail", pa.list_(pa.float16(), 196)),
    ]
)
