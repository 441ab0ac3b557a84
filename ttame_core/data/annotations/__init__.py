"""Formats of boxes and masks: PASCAL VOC XML, COCO JSON, PNG masks.

To add one, put a module with a subclass of Annotations into this package. Another package adds its
own by entry points of the group `ttame.annotations`.
"""

from collections.abc import Mapping

from ttame_core import spec
from ttame_core.data.annotations.base import Annotations
from ttame_core.data.kinds import settings_of
from ttame_core.plugins import registry_of

REGISTRY: Mapping[str, type[Annotations]] = registry_of(
    "ttame.annotations", Annotations, __name__, __path__
)


def open_annotations(section: spec.Annotations | None) -> Annotations | None:
    """Make the annotations that a section of a spec describes; None where there is none.

    Raises:
        SpecProblems: there is no such kind, or something is wrong with its keys.
    """
    if section is None:
        return None
    settings = settings_of(section, REGISTRY)
    return REGISTRY[section.kind](settings)
