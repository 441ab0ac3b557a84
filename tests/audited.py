"""A small audit made by the core alone, with the fingerprints of a real one."""

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
from ttame_core.stages.evaluate import WantedScores, evaluate_shard
from ttame_core.stages.explain import WantedMaps, explain_shard
from ttame_core.stages.matched import match_of, write_match
from ttame_core.stages.provenance import Provenance
from ttame_core.stages.shard import StoredShard


def audit_alone(folder: Path, explainers: list[str]) -> Path:
    """`audit.yaml`, and in `workspace` what that audit leaves: 16 pictures in two shards.

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
    audit, lake = open_spec(folder / "audit.yaml"), Lake(folder / "workspace")
    shard_all(audit.dataset, lake)
    provenance = Provenance(audit, lake)
    (section,) = audit.backbones
    backbone = load_backbone(section)
    match = match_of(provenance, section, backbone)
    write_match(provenance, section.name, match)
    made = {e.name: REGISTRY[e.method](backbone, e.settings) for e in audit.explainers}
    makers = {name: lambda model, name=name: made[name] for name in made}
    for shard, _ in provenance.shards("test"):
        maps = [
            WantedMaps(e.name, made[e.name], provenance.maps(section, e, shard))
            for e in audit.explainers
        ]
        stored = StoredShard(lake, "drawn", shard, match)
        explain_shard(stored, backbone, maps, "predicted", audit.compute)
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
    write_record(lake, audit, Outcome({}, datetime(2026, 1, 1, tzinfo=UTC)), render)
    return folder
