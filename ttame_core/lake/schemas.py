"""Arrow schemas of the lake's Parquet files."""

from __future__ import annotations

import pyarrow as pa

from ttame_core.lake.map_values import STORED

REFUSED = "ttame.not_applicable"  # metadata of a file without rows: why there are none
HEAD = "ttame.head"  # metadata of a head's history, and of maps: SHA-256 of the head's file
LOST = "ttame.lost"  # metadata of a maps file: how many maps it lacks that are not finite
WEIGHTS = "ttame.weights"  # metadata of a maps file: hash of the classifier's weights

# label: that of the object in the box, where its image has several labels; else null.
BOX = pa.struct(
    [
        ("name", pa.string()),
        ("x0", pa.float32()),
        ("y0", pa.float32()),
        ("x1", pa.float32()),
        ("y1", pa.float32()),
        ("label", pa.int32()),
    ]
)

# A row per sample. label, class: the first of its labels; labels, classes: all.
# width, height: size of the picture in pixels as displayed (EXIF applied).
INDEX = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("shard", pa.string()),
        ("label", pa.int32()),
        ("class", pa.string()),
        ("labels", pa.list_(pa.int32())),
        ("classes", pa.list_(pa.string())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("path", pa.string()),
    ]
)

# A row per box, in pixels of the picture as displayed; x1 and y1 are exclusive.
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

# A row per input that was rejected. kind: image, annotation, folder or file (no picture).
REJECTED = pa.schema([("path", pa.string()), ("kind", pa.string()), ("reason", pa.string())])

# A row per shard. sha256: hash of the tar file; samples: number of samples in it.
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
    """Return the schema of maps files, with a row per image and target class.

    The column `map` (or `map_uint8`) holds height × width values in [0, 1], row after row, at the
    explainer's resolution. `probability` is that of the target class on the whole image.

    Args:
        height: rows of a map.
        width: columns of a map.
        dtype: number format of stored maps, as a spec's `maps.dtype` names it.
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


# The roles of explainers. Rivals compete. Yardsticks, such as random maps, are what rivals are
# measured by, and have no ranks. Controls have heads that were trained on permuted labels: their
# maps should be unlike those of heads that were trained on the true ones.
RIVAL, YARDSTICK, CONTROL = "rival", "yardstick", "control"

# One row about an explainer in the lake. method: its method in the spec, whatever its name is.
# control_of: for a control, the name of the explainer that its maps are compared with; null for all
# others, and where the spec has no such explainer.
EXPLAINERS = pa.schema(
    [("method", pa.string()), ("role", pa.string()), ("control_of", pa.string())]
)

# Classes of a classifier: a row for each, and one for each class of the data set that is not among
# them. number: of the output of the classifier, null in the latter. name: for readers. wnid,
# definition: of WordNet, null where there are none. classes, labels: the data set's, by name and by
# number. rule: how they were matched (ttame_core/data/matching.py), null where nothing was.
CLASSES = pa.schema(
    [
        ("number", pa.int32()),
        ("name", pa.string()),
        ("wnid", pa.string()),
        ("definition", pa.string()),
        ("classes", pa.list_(pa.string())),
        ("labels", pa.list_(pa.int32())),
        ("rule", pa.string()),
    ]
)

# The history of a training. A recorded step has a row for each term of the loss and one for their
# sum, `loss`; a validation has a row for each metric (AD@15, accuracy).
HISTORY = pa.schema(
    [
        ("epoch", pa.int32()),
        ("step", pa.int32()),
        ("term", pa.string()),
        ("value", pa.float32()),
    ]
)
# The history with the columns of earlier files too: one for each term of the loss, and `metric`.
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

# A trial of a sweep: a row per metric, with the training settings that the sweep varies.
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

BACKBONE = "-"  # stands for the explainer in values of a backbone itself, such as accuracy

# A row per metric of a backbone and an explainer, with its 95 % interval, in the unit that the view
# `metrics` has. method, role: the explainer's, as in EXPLAINERS; null where the value is a
# backbone's.
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

# A row per image and metric, for at most audits.recorded.RECORDED images.
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

# The changes since the last audit of the same name, and whether the spec's gates hold. A gate has a
# row for each backbone, explainer and metric that it checks. Each principal metric whose change is
# beyond chance has a row without a gate (''). explainer: '-' for a value of the backbone itself.
# previous, value: the metric in the last audit and in this one. change: value - previous, with its
# 95 % paired bootstrap interval; null where nothing is compared. words: the row as one sentence.
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

# A row for each time that what maps mark of one picture was pasted onto another. target: number of
# the class whose maps are alike, in place or in look (aspect). source, key: the picture that the
# patch is of, and the one that it is pasted onto. maps: `alike` where the source's maps are among
# those most like the others of the class, `unlike` where they are among those least like them, and
# `usual`, with an empty aspect, where the class is one of a few that show what is usual. before,
# after: probability of the class on the picture as it is, and with the patch. With the aspect
# `whole` a row is for a picture that was changed as a whole: source is the name of the change, and
# target the class whose mean probability the change raises most. With the aspect `normalised` it is
# for a labelled picture that was normalised in another way (source); target is the label, and
# right_before, right_after say whether it was recognised; they are null in other rows.
PASTED = pa.schema(
    [
        ("target", pa.int32()),
        ("aspect", pa.string()),
        ("source", pa.string()),
        ("maps", pa.string()),
        ("key", pa.string()),
        ("before", pa.float32()),
        ("after", pa.float32()),
        ("right_before", pa.bool_()),
        ("right_after", pa.bool_()),
    ]
)

# The maps of the images in AUDIT_VALUES, reduced to 14×14 as in the family `shape`, as float16.
AUDIT_THUMBNAILS = pa.schema(
    [
        ("backbone", pa.string()),
        ("explainer", pa.string()),
        ("key", pa.string()),
        ("thumbnail", pa.list_(pa.float16(), 196)),
    ]
)
