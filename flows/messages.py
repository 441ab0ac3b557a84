"""Messages of failed flow runs: in Prefect's logs, a user's mistake is one sentence."""

from __future__ import annotations

from flows.each_backbone import BackbonesFailed
from tasks.messages import PLAIN, shorten
from ttame_core.audits.gates import GatesFailed


def install() -> None:
    """Shorten the messages of flow runs; `tasks.messages` shortens those of task runs."""
    shorten("prefect.flow_runs", *PLAIN, BackbonesFailed, GatesFailed)
