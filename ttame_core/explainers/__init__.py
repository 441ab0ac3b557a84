"""Explainers: T-TAME and its rivals, behind one interface and in one registry.

To add one, put a module with a subclass of Explainer into this package.
"""

from importlib import import_module
from pkgutil import iter_modules

from ttame_core.explainers.base import Explainer, ForwardPass, NotApplicable, forward_pass

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

REGISTRY: dict[str, type[Explainer]] = {cls.name: cls for cls in Explainer.__subclasses__()}

__all__ = ["REGISTRY", "Explainer", "ForwardPass", "NotApplicable", "forward_pass"]
