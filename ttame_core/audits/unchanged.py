"""Audits with nothing left to do, which need no engine: the record of the last one still holds."""

from __future__ import annotations

from ttame_core import spec
from ttame_core.audits.record import failed_gates, freeze, versions_now
from ttame_core.data.index import is_finished
from ttame_core.data.plan import plan_shards
from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.lake.query.boards import scores_state
from ttame_core.lake.records import check_record, records
from ttame_core.lake.selection import Selection
from ttame_core.stages.provenance import Provenance
from ttame_core.stages.roles import missing_roles

# The files of a data set that a record is computed from.
READ = (
    "datasets/{}/*.parquet",
    "backbones/dataset={}/*/*.parquet",
    "classes/dataset={}/*/*.parquet",
    "heads/dataset={}/*/*/*.parquet",
    "explainers/dataset={}/*/*/*.parquet",
    "scores/*/dataset={}/*/*/*.parquet",
    "pasted/dataset={}/*/*.parquet",
)


def unchanged_record(lake: Lake, audit: spec.AuditSpec) -> str | None:
    """Return the folder of an audit's last record where the same audit would find the same again.

    The record and all its files are as they were written, and so are the files that it was computed
    from. Spec, versions of packages, pictures, heads, maps and scores are those that it was made
    from. No backbone failed, and no gate did.

    Args:
        lake: the workspace; a plan of shards with other pictures is written there, as an audit
            begins with it.
        audit: the spec.

    Returns:
        The record's folder in the lake; None where the audit has to run.
    """
    folder = next(reversed(records(lake, audit.name)), None)
    if folder is None:
        return None
    try:
        about = check_record(lake, folder)
        same = (
            (about.failures, about.versions) == ({}, versions_now())
            and lake.read_bytes(f"{folder}/spec.yaml").decode() == freeze(audit)
            and about.scores == scores_state(lake, audit.dataset.name, Selection.of(audit))
            and about.scores != ""
            and not failed_gates(lake, folder)
            and _is_made(lake, audit)
        )
    except UserError:  # the audit tells of it, where it matters there
        return None
    return folder if same else None


def _is_made(lake: Lake, audit: spec.AuditSpec) -> bool:
    """Say whether all files that the audit asks for are there, made from what it says now."""
    plan = plan_shards(audit.dataset, lake)
    if not is_finished(lake, plan):
        return False
    lake.check(path for pattern in READ for path in lake.glob(pattern.format(plan.dataset)))
    unmade = next(Provenance(audit, lake).unmade(), None)
    return unmade is None and not missing_roles(lake, audit, [b.name for b in audit.backbones])
