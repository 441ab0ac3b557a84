"""Sources of pictures: folders, lists, manifests, and the drawn data set.

To add a source, put a module with a subclass of Source into this package. Other packages add
sources by entry points of the group `ttame.sources`.
"""

from collections.abc import Mapping

from ttame_core import spec
from ttame_core.data.kinds import settings_of
from ttame_core.data.sources.base import Source
from ttame_core.plugins import registry_of

REGISTRY: Mapping[str, type[Source]] = registry_of("ttame.sources", Source, __name__, __path__)


def open_source(section: spec.Source) -> Source:
    """Make the source that a section of a spec describes.

    Raises:
        SpecProblems: the section's kind is unknown, or one of its keys is wrong.
    """
    settings = settings_of(section, REGISTRY)
    return REGISTRY[section.kind](settings)
