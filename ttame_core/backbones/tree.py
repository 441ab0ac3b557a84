"""Default taps from a module tree, for models that do not say where their stages are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_RATIO = 2  # of a stage's number of pixels to the next stage's; pooling makes it about 4


@dataclass(frozen=True)
class Candidate:
    """An output of a module that could be a feature map.

    Attributes:
        module: name of the module in the model.
        item: index of the output, where the module returns several; else None.
        kind: class of the module.
        leaf: whether the module has no modules inside.
        sequence: whether the module only runs those inside one after the other.
        size: number of pixels of the output, height times width.
    """

    module: str
    item: int | None
    kind: str
    leaf: bool
    sequence: bool
    size: int


def best_candidates(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Choose the best `count` feature maps, from shallow to deep.

    In a hierarchical network they are the last outputs at the last resolutions, in an isotropic one
    the outputs of the last repeated blocks. Single layers are chosen only where larger modules do
    not have enough such outputs.

    Args:
        candidates: candidates in the order in which their modules end.
        count: number of feature maps to choose, at most.
    """
    modules = [candidate for candidate in candidates if not candidate.leaf]
    stages, blocks = _stages(modules)[-count:], _blocks(modules, count)
    if len(stages) == count or len(stages) == len(blocks):
        return stages
    return blocks or max(stages, _stages(candidates)[-count:], key=len)


def _stages(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the last output at each resolution, from the largest to that of the network's end."""
    if not candidates:
        return []
    largest: dict[str, int] = defaultdict(int)
    for candidate in candidates:
        if not candidate.sequence:
            largest[candidate.module] = max(largest[candidate.module], candidate.size)

    def inside_deeper(candidate: Candidate) -> int:
        """Count the modules around a candidate whose maps are smaller, as those of later stages."""
        parts = candidate.module.split(".")
        around = (".".join(parts[:end]) for end in range(1, len(parts)))
        return sum(largest.get(name, candidate.size) < candidate.size for name in around)

    stages: list[Candidate] = []
    before = len(candidates)
    for size in sorted({p.size for p in candidates if p.size >= candidates[-1].size}):
        if stages and size < LEAST_RATIO * stages[-1].size:
            continue
        index = min(
            (i for i, p in enumerate(candidates) if p.size == size),
            key=lambda i: (inside_deeper(candidates[i]), candidates[i].leaf, -i),
        )
        if index <= before:  # larger maps come first, except for those of side branches
            stages.append(candidates[index])
            before = index
    return stages[::-1]


def _blocks(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Return the outputs of the last repeated modules, which are siblings of one class."""
    groups: dict[tuple[str, str], dict[str, Candidate]] = defaultdict(dict)
    for candidate in candidates:
        siblings = groups[candidate.module.rpartition(".")[0], candidate.kind]
        if candidate.module not in siblings or candidate.size < siblings[candidate.module].size:
            siblings[candidate.module] = candidate
    order = {candidate.module: i for i, candidate in enumerate(candidates)}
    repeated = [list(group.values()) for group in groups.values() if len(group) >= count]
    last = max(repeated, key=lambda group: order[group[-1].module], default=[])
    return last[-count:]
