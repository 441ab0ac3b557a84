"""Explainers: T-TAME and its rivals, behind one interface and in one registry.

To add an explainer, put a module with a subclass of Explainer into this package. Other packages add
explainers by entry points of the group `ttame.explainers` (docs/extending.md).
"""

from collections.abc import Mapping

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
from ttame_core.plugins import registry_of

REGISTRY: Mapping[str, type[Explainer]] = registry_of(
    "ttame.explainers", Explainer, __name__, __path__
)


def training_of(section: spec.Training, explainer: spec.Explainer) -> spec.Training:
    """Return the settings by which an explainer's heads are trained.

    Args:
        section: section `training` of the spec.
        explainer: section of an explainer with a head; its own keys of `training` take precedence.
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
