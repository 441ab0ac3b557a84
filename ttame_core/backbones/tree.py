"""Default taps from a module tree, for models that do not say where their stages are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_RATIO = 2  # of a stage's map size to the next one's; pooling makes it about 4


@dataclass(frozen=True)
class Place:
    """An output of a module that could be a feature map.

    kind: the module's class. leaf: it has no modules inside. sequence: it only runs those inside
    one after the other. size: height times width.
    """

    module: str
    item: int | None
    kind: str
    leaf: bool
    sequence: bool
    size: int


def find_places(places: Sequence[Place], count: int) -> list[Place]:
    """The best `count` feature maps, from shallow to deep.

    places: in the order in which their modules end. The last one at each of the last resolutions of
    a hierarchical network; the last of the repeated blocks of an isotropic one. Single layers only
    where no larger module gives as many.
    """
    modules = [place for place in places if not place.leaf]
    stages, blocks = _stages(modules)[-count:], _blocks(modules, count)
    if len(stages) == count or len(stages) == len(blocks):
        return stages
    return blocks or max(stages, _stages(places)[-count:], key=len)


def _stages(places: Sequence[Place]) -> list[Place]:
    """The last output at each resolution, from the largest to that of the network's end."""
    if not places:
        return []
    largest: dict[str, int] = defaultdict(int)
    for place in places:
        if not place.sequence:
            largest[place.module] = max(largest[place.module], place.size)

    def inside_deeper(place: Place) -> int:
        """How many modules around it give smaller maps: it is then amid a later stage."""
        parts = place.module.split(".")
        around = (".".join(parts[:end]) for end in range(1, len(parts)))
        return sum(largest.get(name, place.size) < place.size for name in around)

    found: list[Place] = []
    before = len(places)
    for size in sorted({p.size for p in places if p.size >= places[-1].size}):
        if found and size < LEAST_RATIO * found[-1].size:
            continue
        index = min(
            (i for i, p in enumerate(places) if p.size == size),
            key=lambda i: (inside_deeper(places[i]), places[i].leaf, -i),
        )
        if index <= before:  # larger maps come first, but for those that a side branch makes
            found.append(places[index])
            before = index
    return found[::-1]


def _blocks(places: Sequence[Place], count: int) -> list[Place]:
    """The last of the repeated modules: siblings of one class; those that end last."""
    groups: dict[tuple[str, str], dict[str, Place]] = defaultdict(dict)
    for place in places:
        siblings = groups[place.module.rpartition(".")[0], place.kind]
        if place.module not in siblings or place.size < siblings[place.module].size:
            siblings[place.module] = place
    order = {place.module: i for i, place in enumerate(places)}
    repeated = [list(group.values()) for group in groups.values() if len(group) >= count]
    last = max(repeated, key=lambda group: order[group[-1].module], default=[])
    return last[-count:]
