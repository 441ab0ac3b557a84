"""One sentence for a user's mistake, in Prefect's logs as on the terminal; no traceback of ours."""

from __future__ import annotations

from flows.each_backbone import BackbonesFailed
from tasks.messages import PLAIN, shorten
from ttame_core.audits.gates import GatesFailed


def install() -> None:
    """Shorten the messages of flow runs; `tasks.messages` shortens those of task runs."""
    shorten("prefect.flow_runs", *PLAIN, BackbonesFailed, GatesFailed)
