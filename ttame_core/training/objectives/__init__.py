"""Objectives: terms of a training's loss on the logits of masked images (`training.objective`).

To add an objective, put a module with a subclass of Objective into this package. Other packages add
objectives by entry points of the group `ttame.objectives`.
"""

from collections.abc import Mapping

from ttame_core.errors import UserError, nearest
from ttame_core.plugins import registry_of
from ttame_core.training.objectives.base import Objective

REGISTRY: Mapping[str, type[Objective]] = registry_of(
    "ttame.objectives", Objective, __name__, __path__
)


def objective_of(name: str) -> Objective:
    """Make the objective with this name.

    Raises:
        UserError: there is no such objective.
    """
    if name not in REGISTRY:
        allowed = ", ".join(sorted(REGISTRY))
        raise UserError(f"unknown objective {name}; allowed: {allowed}." + nearest(name, REGISTRY))
    return REGISTRY[name]()


__all__ = ["REGISTRY", "Objective", "objective_of"]
