"""An audit that runs without a Prefect server, and what its workspace must look like after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pyarrow.parquet as pq
from prefect.logging import disable_run_logger

from tasks.evaluate import evaluate
from tasks.explain import explain
from tasks.fit import fit
from tasks.paste import paste
from tasks.report import report
from tasks.shard import finish, plan, write
from tasks.train import train
from ttame_core import spec
from ttame_core.audits.specification import complete
from ttame_core.explainers import REGISTRY
from ttame_core.lake import Lake
from ttame_core.stages.provenance import Provenance

AUDIT = complete(
    spec.AuditSpec.model_validate(
        {
            "name": "killed",
            "dataset": {
                "name": "drawn",
                "samples_per_shard": 8,
                "source": {"kind": "shapes", "train": 32, "val": 8, "test": 48, "size": 64},
            },
            "backbones": [
                {
                    "model": "resnet10t",
                    "name": "net",
                    "args": {"channels": [8, 16, 24, 32], "stem_width": 8},
                    "preprocessing": {"input_size": [64, 64]},
                    "fit": {"epochs": 8, "batch_size": 8},
                }
            ],
            "training": {"epochs": 8, "min_steps": 0, "batch_size": 8, "checkpoint_steps": 2},
            "compute": {"device": "cpu", "batch_size": 4, "workers": 2},
        }
    )
)

Enter = Callable[[str], None]  # told which stage begins


def content(workspace: Path) -> dict[str, object]:
    """Return what the files of a lake hold by name, without the records of single audits."""
    contents: dict[str, object] = {}
    for path in sorted(p for p in workspace.rglob("*") if p.is_file()):
        name = str(path.relative_to(workspace))
        if name.startswith("audits/"):
            continue
        contents[name] = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            if "metric=cost" in name:  # what a clock says is never the same
                table = table.drop_columns("seconds")
            contents[name] = (table.schema.metadata, table)
    return contents


def differences(expected: Path, actual: Path) -> list[str]:
    """Return the names of files that only one of two workspaces has, or that differ."""
    return differing(content(expected), content(actual))


def differing(mine: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    """Return the names that only one of two contents has, or that differ."""
    return [name for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]


def temporary(workspace: Path) -> list[str]:
    """Return the names of files that no finished audit has any use for."""
    patterns = ("*.writing-*", ".*", "checkpoint.pt")
    return sorted({str(p.relative_to(workspace)) for s in patterns for p in workspace.rglob(s)})


def whole(workspace: Path) -> dict[str, tuple[int, int]]:
    """Return inode and modification time of the files whose unit of work is complete.

    The mark is the file that a unit writes last.
    """
    files: list[Path] = list(workspace.glob("datasets/*/plan.parquet"))
    for mark in workspace.glob("datasets/*/shards/[!.]*.parquet"):
        files += [mark, mark.with_suffix(".tar")]
    for mark in workspace.glob("datasets/*/shards.parquet"):
        files += [mark.with_name(f"{n}.parquet") for n in ("index", "annotations", "rejected")]
        files += [mark]
    for mark in [
        *workspace.glob("heads/*/*/*/history.parquet"),
        *workspace.glob("backbones/*/*/history.parquet"),
    ]:
        files += [p for p in mark.parent.glob("[!.]*") if p.name != "checkpoint.pt"]
    for mark in workspace.glob("maps/*/*/*/[!.]*.parquet"):
        cost = Path("scores/metric=cost", *mark.relative_to(workspace).parts[1:])
        files += [mark, workspace / cost]
    files += [
        path
        for path in workspace.glob("scores/*/*/*/*/[!.]*.parquet")
        if "metric=cost" not in path.parts[-5]
    ]
    return {
        str(path.relative_to(workspace)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in files
    }


def audit_once(
    audit: spec.AuditSpec, workspace: str, enter: Enter = lambda stage: None, record: bool = True
) -> None:
    """Run all stages of flows.audit_zoo, with its tasks, but without Prefect around them."""
    with (
        disable_run_logger(),
        patch("tasks.progress.create_progress_artifact", return_value=None),
        patch("tasks.report.leave_artifacts"),
        ThreadPoolExecutor(audit.compute.workers) as pool,
    ):
        enter("shard")
        shards = plan.fn(audit.dataset, workspace)
        parts = [shards.part([name]) for name in shards.shards]
        list(pool.map(lambda part: write.fn(audit.dataset, workspace, part), parts))
        finish.fn(audit.dataset, workspace, shards)
        provenance = Provenance(audit, Lake(workspace))
        tested = [name for name, _ in provenance.shards(audit.maps.split)]
        enter("fit")
        for backbone in audit.backbones:
            if backbone.fit:
                fit.fn(audit, workspace, backbone)
        enter("train")
        for backbone in audit.backbones:
            for explainer in audit.explainers:
                if REGISTRY[explainer.method].needs_head:
                    train.fn(audit, workspace, backbone, explainer)
        for stage, task in (("explain", explain), ("evaluate", evaluate)):
            enter(stage)
            for backbone in audit.backbones:
                for shard in tested:
                    task.fn(audit, workspace, backbone, [shard])
        for backbone in audit.backbones:
            paste.fn(audit, workspace, backbone)
        if record:
            enter("report")
            report.fn(audit, workspace, {})
