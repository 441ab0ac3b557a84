"""Messages of failed task runs: in Prefect's logs, a user's mistake is one sentence."""

from __future__ import annotations

import logging

from ttame_core.errors import UserError
from ttame_core.explainers import NotApplicable

PLAIN = (UserError, NotApplicable)


class OneSentence(logging.Filter):
    """A filter that prints errors of some classes as one sentence, without a traceback."""

    def __init__(self, *plain: type[BaseException]) -> None:
        super().__init__()
        self._plain = plain

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record of such an error, and let all records pass."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, self._plain):
            record.msg, record.args, record.exc_info = str(error), (), None
        return True


def shorten(name: str, *plain: type[BaseException]) -> None:
    """Let a logger print errors of some classes as one sentence; repeated calls change nothing.

    Args:
        name: name of the logger.
        *plain: classes of errors.
    """
    logger = logging.getLogger(name)
    if not any(isinstance(f, OneSentence) for f in logger.filters):
        logger.addFilter(OneSentence(*plain))


shorten("prefect.task_runs", *PLAIN)  # in every process that runs units
