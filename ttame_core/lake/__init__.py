"""The lake: a workspace of plain Parquet, tar and safetensors files."""

from ttame_core.lake.store import (
    AUDIT_TIME,
    Lake,
    audit_folder,
    classes_file,
    dataset_file,
    explainer_file,
    fingerprint,
    fitted_folder,
    head_folder,
    maps_file,
    pasted_file,
    scores_file,
    shard_rows,
    shard_tar,
    trial_file,
)

__all__ = [
    "AUDIT_TIME",
    "Lake",
    "audit_folder",
    "classes_file",
    "dataset_file",
    "explainer_file",
    "fingerprint",
    "fitted_folder",
    "head_folder",
    "maps_file",
    "pasted_file",
    "scores_file",
    "shard_rows",
    "shard_tar",
    "trial_file",
]
