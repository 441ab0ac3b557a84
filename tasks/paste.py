"""Task of the flow paste_marked."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger

from tasks.models import backbone_of, one_network
from tasks.unit import skipped, unit
from ttame_core import spec
from ttame_core.backbones.devices import in_smaller_batches
from ttame_core.lake import Lake, pasted_file
from ttame_core.lake.query.connection import connect
from ttame_core.lake.schemas import PASTED
from ttame_core.lake.selection import Selection
from ttame_core.metrics import Row
from ttame_core.report.findings import alike_images
from ttame_core.stages.changing import LABELLED, PICTURES, change, normalise_otherwise
from ttame_core.stages.pasting import Explained
from ttame_core.stages.provenance import Provenance


@unit("paste on {backbone.name}")
def paste(audit: spec.AuditSpec, workspace: str, backbone: spec.Backbone) -> Any:
    """Change whole pictures; where maps of a class are alike, paste what they mark onto others.

    Labelled pictures are also normalised in other ways than the classifier is given.
    """
    lake = Lake(workspace)
    provenance = Provenance(audit, lake)
    if provenance.pasted_is_current(backbone):
        return skipped()
    with one_network():
        rows = _pasted(provenance, backbone)
    path = pasted_file(audit.dataset.name, backbone.name)
    lake.write_parquet(path, rows, PASTED, provenance.pasted(backbone))
    return None


def _pasted(provenance: Provenance, backbone: spec.Backbone) -> list[Row]:
    """Return the rows of a classifier: of pasted parts, and of pictures changed as a whole."""
    audit, lake = provenance.audit, provenance.lake
    with connect(lake, selection=Selection.of(audit)) as db:
        alike = alike_images(db, audit, backbone.name)
        loaded = backbone_of(provenance, backbone)

        def run(compute: spec.Compute) -> list[Row]:
            part = audit.model_copy(update={"compute": compute})
            explained = Explained(lake, db, part, loaded)
            rows = [row for own in explained.pastings(alike) for row in explained.paste(own)]
            keys = explained.some_keys(LABELLED)
            for first in range(0, len(keys), PICTURES):  # no more pictures in memory
                some = keys[first : first + PICTURES]
                images, labels = explained.images(some), explained.labels(some)
                if first == 0:
                    rows += change(images, loaded, compute.batch_size)
                rows += normalise_otherwise(images, labels, loaded, compute.batch_size)
            return rows

        return in_smaller_batches(audit.compute, run, get_run_logger().warning)
