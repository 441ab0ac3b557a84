"""Formats of boxes and masks: PASCAL VOC XML, COCO JSON, PNG masks.

To add a format, put a module with a subclass of Annotations into this package. Other packages add
formats by entry points of the group `ttame.annotations`.
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
    """Make the annotations that a section of a spec describes; None where there is no section.

    Raises:
        SpecProblems: the section's kind is unknown, or one of its keys is wrong.
    """
    if section is None:
        return None
    settings = settings_of(section, REGISTRY)
    return REGISTRY[section.kind](settings)
