"""The stages that make files, without a report: `main` is a program for forked processes."""

from __future__ import annotations

import sys

from flows.each_backbone import BackbonesFailed
from flows.engine import opened
from flows.evaluate_maps import evaluate_maps
from flows.explain_dataset import explain_dataset
from flows.shard_dataset import shard_dataset
from flows.train_heads import train_heads
from ttame_core.audits.specification import open_spec


def main() -> None:
    """Run the stages on the engine of the spec, and say which backbones failed."""
    _, spec, workspace = sys.argv
    audit = open_spec(spec)
    with opened(audit.compute):
        for stage in (shard_dataset, train_heads, explain_dataset, evaluate_maps):
            try:
                stage(audit, workspace)
            except BackbonesFailed as failed:
                print(stage.__name__, failed, flush=True)
