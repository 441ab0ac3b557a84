"""Task of the flow paste_marked."""

from __future__ import annotations

from typing import Any

from tasks.models import backbone_of, one_network
from tasks.unit import skipped, unit
from ttame_core import spec
from ttame_core.lake import Lake, pasted_file
from ttame_core.lake.query.connection import connect
from ttame_core.lake.schemas import PASTED
from ttame_core.lake.selection import Selection
from ttame_core.report.findings import alike_images
from ttame_core.stages.pasting import Explained
from ttame_core.stages.provenance import Provenance


@unit("paste on {backbone.name}")
def paste(audit: spec.AuditSpec, workspace: str, backbone: spec.Backbone) -> Any:
    """Paste what maps of a class mark onto other pictures, where these maps are alike."""
    lake = Lake(workspace)
    provenance = Provenance(audit, lake)
    if provenance.pasted_is_current(backbone):
        return skipped()
    with one_network(), connect(lake, selection=Selection.of(audit)) as db:
        rows = []
        if alike := alike_images(db, audit, backbone.name):
            explained = Explained(lake, db, audit, backbone_of(provenance, backbone))
            rows = [row for own in explained.pastings(alike) for row in explained.paste(own)]
    path = pasted_file(audit.dataset.name, backbone.name)
    lake.write_parquet(path, rows, PASTED, provenance.pasted(backbone))
    return None
