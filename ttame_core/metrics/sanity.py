"""Sanity of maps: they must change when what they explain is destroyed (Adebayo et al. 2018).

In cascading randomisation (section 3.1), the weights of the classifier's layers are randomised from
the logits down, in a few steps. The map of the same target on the same image is compared with the
map before, by rank correlation and structural similarity; less alike is better.

Weights are randomised by shuffling the entries of each tensor, which keeps their scale and works
for every layer, also for folded ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.explainers.base import Explainer, NotApplicable
from ttame_core.metrics.base import Family, MappedImages, Row
from ttame_core.metrics.similarity import spearman, ssim
from ttame_core.seeding import generator_for

M = TypeVar("M", bound=nn.Module)


def cascade(backbone: Backbone, depths: int, seed: int) -> list[tuple[float, Backbone]]:
    """Return copies of a classifier with more and more randomised layers.

    The given classifier stays as it is. The copies share with it the tensors that are not
    randomised, and share randomised ones with each other.

    Args:
        backbone: the classifier.
        depths: number of copies, at least 2.
        seed: seed of the shuffling.

    Returns:
        The depth and the copy; depths are evenly spaced from 0, the last layer alone, to 1, all
        layers.
    """
    layers = weights_from_the_logits(backbone)
    randomised = [[(t, _shuffled(t, f"{seed}/{name}")) for name, t in layer] for layer in layers]
    copies = []
    for depth in torch.linspace(0, 1, depths).tolist():
        reached = randomised[: max(1, round(depth * len(layers)))]
        copies.append((depth, _with_weights(backbone, dict(chain.from_iterable(reached)))))
    return copies


def weights_from_the_logits(backbone: Backbone) -> list[list[tuple[str, Tensor]]]:
    """Return names and tensors of each layer's weights, from the last layer that runs to the first.

    A layer is a module with weights of its own: parameters, and statistics of norms. The weights of
    a module that is never called belong to the layer of the module around it.
    """
    modules = dict(backbone.model.named_modules())
    began: dict[str, int] = {}

    def begins(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            began.setdefault(name, len(began))

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(begins(name)).remove)
        example = torch.zeros(1, *backbone.preprocessing.shape, device=backbone.device)
        backbone(backbone.normalise(example))

    def place(name: str) -> int:
        while name not in began:
            name = name.rpartition(".")[0]
        return began[name]

    layers = {}
    seen: set[int] = set()
    for name in sorted(modules, key=place, reverse=True):
        own = {n: t for n, t in _own_weights(modules[name]) if id(t) not in seen}
        seen |= {id(t) for t in own.values()}
        if own:
            layers[name] = [(f"{name}.{n}", t) for n, t in own.items()]
    return list(layers.values())


def _own_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    for name, buffer in module.named_buffers(recurse=False):
        if name in ("running_mean", "running_var"):
            yield name, buffer


def randomised_head(head: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a trained head with all weights randomised."""
    named = [*head.named_parameters(), *head.named_buffers()]
    return _with_weights(head, {t: _shuffled(t, f"{seed}/{name}") for name, t in named})


def _shuffled(weights: Tensor, seed: str) -> Tensor:
    """Return a tensor with the same entries, in an order that follows from the seed."""
    order = torch.randperm(weights.numel(), generator=generator_for(seed)).to(weights.device)
    values = weights.detach().flatten()[order].view(weights.shape)
    learnt = isinstance(weights, nn.Parameter)
    return nn.Parameter(values, requires_grad=False) if learnt else values


def _with_weights(module: M, replaced: dict[Tensor, Tensor]) -> M:
    """Return a copy of a module with some tensors replaced; the copy shares the others."""
    own = {id(t): t for t in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, own | {id(t): new for t, new in replaced.items()})


class Sanity(Family):
    """Rank correlation and SSIM of maps before and after randomisation: a row per map and step.

    Maps are compared at the explainer's own resolution. The column `randomised` is `classifier` for
    each depth, or `head`, for explainers with a trained head, where the head alone is randomised.
    There are no rows for explainers that cannot explain the randomised classifier, and none for
    classifiers that are scripts of TorchScript.
    """

    name = "sanity"
    reexplains = True

    class Settings(spec.Section):
        """The family's keys in a spec."""

        depths: int = Field(4, ge=2, description="number of steps, from the last layer to all")
        seed: spec.Seed = 0

    def __init__(self, settings: dict[str, Any] | None = None) -> None:
        super().__init__(settings)
        self._cascade: tuple[Backbone | None, list[tuple[float, Backbone]]] = (None, [])

    @override
    def rows(self, mapped: MappedImages) -> Iterator[Row]:
        for randomised, depth, explainer in self._randomised(mapped):
            try:
                after = mapped.explain(explainer, mapped.images)
            except NotApplicable:
                continue
            scores = zip(
                mapped.rows,
                spearman(mapped.maps, after).tolist(),
                ssim(mapped.maps, after).tolist(),
                (~after.isnan().flatten(1).any(dim=1)).tolist(),
                strict=True,
            )
            about = {"randomised": randomised, "depth": depth}
            for row, correlation, similarity, explained in scores:
                if explained:
                    yield {**row, **about, "rank_correlation": correlation, "ssim": similarity}

    def _randomised(self, mapped: MappedImages) -> Iterator[tuple[str, float, Explainer]]:
        if self._cascade[0] is not mapped.backbone:
            # The weights of a script cannot be replaced.
            modules = mapped.backbone.model.modules()
            steps = (
                []
                if any(isinstance(module, torch.jit.ScriptModule) for module in modules)
                else cascade(mapped.backbone, self.settings.depths, self.settings.seed)
            )
            self._cascade = (mapped.backbone, steps)
        for depth, backbone in self._cascade[1]:
            try:
                yield "classifier", depth, mapped.explainer(backbone)
            except NotApplicable:
                continue
        explainer = mapped.explainer(mapped.backbone)
        head = getattr(explainer, "head", None)
        if isinstance(head, nn.Module):
            twin: Any = copy.copy(explainer)
            twin.head = randomised_head(head, self.settings.seed)
            yield "head", 1.0, twin
