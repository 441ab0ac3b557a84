"""Explainers: T-TAME and its rivals, behind one interface and in one registry.

To add one, put a module with a subclass of Explainer into this package. Another package adds its
own by entry points (docs/extending.md).
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules

from ttame_core import spec
from ttame_core.explainers.base import (
    Cost,
    Explainer,
    ForwardPass,
    NotApplicable,
    forward_pass,
    measure,
)
from ttame_core.explainers.trained import Trained
from ttame_core.plugins import Registry, of_class

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def _subclasses(cls: type[Explainer]) -> Iterator[type[Explainer]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


# A class without a name is what several share.
REGISTRY: Mapping[str, type[Explainer]] = Registry(
    "ttame.explainers",
    {cls.name: cls for cls in _subclasses(Explainer) if "name" in vars(cls)},
    of_class(Explainer),
)


def training_of(section: spec.Training, explainer: spec.Explainer) -> spec.Training:
    """Say how an explainer's heads are trained.

    Args:
        section: the spec's `training`.
        explainer: an explainer with a head; its own keys of `training` come first.
    """
    method = REGISTRY[explainer.method]
    if not issubclass(method, Trained):
        return section
    return method.training_of(section, explainer.training)


__all__ = [
    "REGISTRY",
    "Cost",
    "Explainer",
    "ForwardPass",
    "NotApplicable",
    "Trained",
    "forward_pass",
    "measure",
    "training_of",
]
