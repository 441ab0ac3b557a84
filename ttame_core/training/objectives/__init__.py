"""Objectives: what a training asks of the logits of masked images (`training.objective`).

To add one, put a module with a subclass of Objective into this package. Another package adds its
own by entry points of the group `ttame.objectives`.
"""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from ttame_core.errors import UserError, nearest
from ttame_core.plugins import Registry, of_class
from ttame_core.training.objectives.base import Objective

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

REGISTRY: Mapping[str, type[Objective]] = Registry(
    "ttame.objectives",
    {cls.name: cls for cls in Objective.__subclasses__()},
    of_class(Objective),
)


def objective_of(name: str) -> Objective:
    """Make the objective of a name.

    Raises:
        UserError: there is none.
    """
    if name not in REGISTRY:
        allowed = ", ".join(sorted(REGISTRY))
        raise UserError(f"unknown objective {name}; allowed: {allowed}." + nearest(name, REGISTRY))
    return REGISTRY[name]()


__all__ = ["REGISTRY", "Objective", "objective_of"]
