"""One sentence for a user's mistake, in Prefect's logs as on the terminal; no traceback of ours."""

from __future__ import annotations

import logging

from flows.each_backbone import BackbonesFailed
from ttame_core.errors import UserError
from ttame_core.explainers import NotApplicable
from ttame_core.gates import GatesFailed

PLAIN = (UserError, BackbonesFailed, GatesFailed, NotApplicable)


class _OneSentence(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, PLAIN):
            record.msg, record.args, record.exc_info = str(error), (), None
        return True


def install() -> None:
    """For the loggers of flow and task runs; a second time changes nothing."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(f, _OneSentence) for f in logger.filters):
            logger.addFilter(_OneSentence())
