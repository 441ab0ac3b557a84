"""What a process works out once of the families of metrics there are."""

from __future__ import annotations

from ttame_core.lake import families
from ttame_core.lake.query import directions, views

FAMILIES = families.registry, views.views, directions.directions


def forget_families() -> None:
    """Look again at which families there are, ttame's and those of other packages."""
    for known in FAMILIES:
        known.cache_clear()
