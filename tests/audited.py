"""Audits made by the core alone, with the fingerprints of real ones."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import timm
import torch
import yaml
from safetensors.torch import save_file
from tiny import shard_all

from ttame_core.audits.record import Outcome, write_record
from ttame_core.audits.specification import open_spec
from ttame_core.backbones import load_backbone
from ttame_core.explainers import REGISTRY
from ttame_core.lake import Lake, fingerprint
from ttame_core.metrics import REGISTRY as FAMILIES
from ttame_core.report.rendering import render
from ttame_core.spec import AuditSpec
from ttame_core.stages.evaluate import WantedScores, evaluate_shard
from ttame_core.stages.explain import WantedMaps, explain_shard
from ttame_core.stages.matched import match_of, write_match
from ttame_core.stages.provenance import Provenance
from ttame_core.stages.shard import StoredShard


def audit_alone(folder: Path, explainers: list[str | dict[str, dict]]) -> Path:
    """The folder with `audit.yaml`, and in `workspace` what that audit leaves."""
    run_alone(spec_alone(folder, explainers), Lake(folder / "workspace"))
    return folder


def spec_alone(folder: Path, explainers: list[str | dict[str, dict]]) -> AuditSpec:
    """The audit of a new `audit.yaml`: an untrained network and 16 pictures in two shards.

    explainers: that have no head. Of 64 pixels the classifier looks at the middle.
    """
    torch.manual_seed(0)
    args = {"channels": [8, 16, 24, 32], "stem_width": 8}
    net = timm.create_model("resnet10t", num_classes=10, **args)
    save_file(net.state_dict(), folder / "net.safetensors")
    spec = {
        "name": "small",
        "dataset": {
            "name": "drawn",
            "samples_per_shard": 8,
            "source": {"kind": "shapes", "train": 0, "val": 0, "test": 16, "size": 64},
        },
        "backbones": [
            {
                "name": "net",
                "model": "resnet10t",
                "checkpoint": "${here}/net.safetensors",
                "args": args,
                "preprocessing": {"input_size": [64, 64], "crop_pct": 0.8},
            }
        ],
        "explainers": explainers,
        "compute": {"device": "cpu", "batch_size": 8, "workers": 2},
    }
    (folder / "audit.yaml").write_text(yaml.safe_dump(spec))
    return open_spec(folder / "audit.yaml")


def run_alone(audit: AuditSpec, lake: Lake) -> str:
    """Make in a lake what an audit leaves, without heads; the folder of its record."""
    fill_alone(audit, lake)
    return write_record(lake, audit, Outcome({}, datetime(2026, 1, 1, tzinfo=UTC)), render)


def fill_alone(audit: AuditSpec, lake: Lake) -> None:
    """Make the maps and scores of an audit without heads, and no record of it."""
    shard_all(audit.dataset, lake)
    provenance = Provenance(audit, lake)
    for section in audit.backbones:
        backbone = load_backbone(section)
        match = match_of(provenance, section, backbone)
        write_match(provenance, section.name, match)
        made = {e.name: REGISTRY[e.method](backbone, e.settings) for e in audit.explainers}
        makers = {name: lambda model, own=own: own for name, own in made.items()}
        for shard, _ in provenance.shards(audit.maps.split):
            maps = [
                WantedMaps(e.name, made[e.name], provenance.maps(section, e, shard))
                for e in audit.explainers
            ]
            stored = StoredShard(lake, audit.dataset.name, shard, match)
            explain_shard(stored, backbone, maps, audit.maps.targets, audit.compute)
            scores = [
                WantedScores(
                    e.name,
                    FAMILIES[metric.family](metric.settings),
                    provenance.scores(section, e, metric, shard),
                    maps=fingerprint(provenance.maps(section, e, shard)),
                )
                for e in audit.explainers
                for metric in audit.evaluation.metrics
            ]
            evaluate_shard(stored, backbone, scores, makers, audit.compute)
