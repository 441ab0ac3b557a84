"""Feature taps, the modules of a backbone that heads read, and their feature maps (B, C, h, w)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttame_core.backbones.outputs import logits_of, passed
from ttame_core.backbones.tree import Candidate, best_candidates
from ttame_core.errors import UserError, nearest

MAP_SIDE = 56  # attention maps are at most this high and wide
TAPS = 3  # number of feature maps that T-TAME reads
PREFIXES = (0, 1, 2)  # numbers of tokens before the patches that are tried if a model has no own


@dataclass(frozen=True)
class Tap:
    """A module of a backbone whose output is a feature map.

    Attributes:
        module: dotted name of the module.
        layout: `NCHW`, `NHWC`, or `tokens` for an output (B, N, D).
        channels: number of channels of the feature map.
        height: height of the feature map.
        width: width of the feature map.
        prefix: number of tokens before the patches (class, distillation, registers).
        item: index of the output, where the module returns a list; else None.
        order: for each position of the map, row by row, the index of its token; empty where the
            tokens are in that order.
    """

    module: str
    layout: str
    channels: int
    height: int
    width: int
    prefix: int = 0
    item: int | None = None
    order: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The tap's name in a spec's `taps`."""
        return self.module if self.item is None else f"{self.module}[{self.item}]"

    def output(self, given: Any) -> Tensor:
        """Return this tap's tensor from all that its module returns."""
        return given if self.item is None else given[self.item]

    def feature_map(self, output: Tensor) -> Tensor:
        """Bring the tap's tensor into the form (B, C, h, w): T-TAME's adapter (section III-B)."""
        if self.layout == "NCHW":
            return output
        if self.layout == "NHWC":
            return output.permute(0, 3, 1, 2)
        patches = output[:, self.prefix :].transpose(1, 2)
        if self.order:
            patches = patches[:, :, list(self.order)]
        return patches.unflatten(2, (self.height, self.width))

    def masked(self, given: Any, attention: Tensor) -> Any:
        """Multiply the tap's features by attention, within all that its module returns.

        Tokens before the patches stay as they are.

        Args:
            given: what the module returns.
            attention: (B, 1, h, w).
        """
        output = self.output(given)
        if self.layout == "NCHW":
            mask = attention
        elif self.layout == "NHWC":
            mask = attention.permute(0, 2, 3, 1)
        else:
            patches = attention.flatten(1)
            if self.order:
                patches = patches[:, torch.tensor(self.order).argsort()]
            mask = F.pad(patches, (self.prefix, 0), value=1.0)[..., None]
        product = output * mask.to(output.dtype)
        if self.item is None:
            return product
        return type(given)(product if i == self.item else o for i, o in enumerate(given))


def map_size(feature_sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return (height, width) of attention maps: the size of the largest tap, at most MAP_SIDE."""
    height, width = max(feature_sizes, key=lambda size: size[0] * size[1])
    return min(height, MAP_SIDE), min(width, MAP_SIDE)


def capture(model: nn.Module, taps: Sequence[Tap], inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Run one forward pass, and return its logits (B, K) and the feature map of each tap."""
    logits, outputs = tap_outputs(model, taps, inputs)
    return logits, [tap.feature_map(output) for tap, output in zip(taps, outputs, strict=True)]


def tap_outputs(
    model: nn.Module, taps: Sequence[Tap], inputs: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Run one forward pass, and return its logits (B, K) and each tap's tensor as it is."""
    outputs: dict[str, Any] = {}
    with ExitStack() as hooks:
        for name in {tap.module for tap in taps}:
            hook = model.get_submodule(name).register_forward_hook(_keep(outputs, name))
            hooks.callback(hook.remove)
        logits = logits_of(model(inputs))
    return logits, [tap.output(outputs[tap.module]) for tap in taps]


def continue_masked(model: nn.Module, tap: Tap, attention: Tensor, inputs: Tensor) -> Tensor:
    """Return logits (B, K) of a pass whose features at the tap are multiplied by attention."""

    def mask(module: nn.Module, args: Any, output: Any) -> Any:
        return tap.masked(output, attention)

    with ExitStack() as hooks:
        # A compiled model was perhaps traced without the hook, which it would then leave out.
        hooks.enter_context(torch.compiler.set_stance("force_eager"))
        hooks.callback(model.get_submodule(tap.module).register_forward_hook(mask).remove)
        return logits_of(model(inputs))


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's weights; the CPU for a model without parameters."""
    return next(chain(model.parameters(), model.buffers(), [torch.empty(0)])).device


def _keep(outputs: dict[str, Any], name: str) -> Callable[..., None]:
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        outputs[name] = output

    return keep


def resolve_taps(
    model: nn.Module, name: str, shape: tuple[int, int, int], chosen: Sequence[int | str] | None
) -> tuple[tuple[Tap, ...], int]:
    """Find the taps of a model, from shallow to deep, and count its classes.

    Args:
        model: the network.
        name: name of the backbone, for errors.
        shape: channels, height and width of the network's input.
        chosen: indices into the model's feature_info, or names of modules (`layer3`, or
            `blocks.2[1]` for the second of several outputs); [] for no taps. None for the last
            three of feature_info: the last three stages of a hierarchical network, or the last
            three blocks of an isotropic one. For models without feature_info, None stands for taps
            that are found in the module tree (`tree`).

    Returns:
        The taps, and K, the number of classes.

    Raises:
        UserError: the model has no such module, or its output is no feature map.
    """
    probe = _Probe(model, name, shape)
    if chosen is not None:
        return tuple(probe.chosen(choice) for choice in chosen), probe.classes
    return probe.stages() or probe.tree(), probe.classes


class _Probe:
    """The shapes of what a model's modules return for one blank image."""

    def __init__(self, model: nn.Module, name: str, shape: tuple[int, int, int]) -> None:
        self.model, self.name, self.shape, self.input_size = model, name, shape, shape[1:]
        info = getattr(model, "feature_info", None) or []
        self.info: list[dict[str, Any]] = list(getattr(info, "info", info))
        self.modules = dict(model.named_modules())
        # shapes of outputs, by module and index, in the order in which the modules end
        self.shapes: dict[tuple[str, int | None], tuple[int, ...]] = {}
        self.classes = self._run()

    def _run(self) -> int:
        """Run the model on the blank image: fill `shapes`, and return the number of classes."""

        def note(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                listed = isinstance(output, list | tuple)
                for item, tensor in enumerate(output) if listed else [(None, output)]:
                    if isinstance(tensor, Tensor):
                        self.shapes.pop((name, item), None)
                        self.shapes[name, item] = tuple(tensor.shape)

            return hook

        with ExitStack() as hooks, torch.no_grad():
            for name, module in self.modules.items():
                if name and not isinstance(module, torch.jit.ScriptModule):  # scripts have no hooks
                    hooks.callback(module.register_forward_hook(note(name)).remove)
            blank = torch.zeros(1, *self.shape, device=device_of(self.model))
            logits = logits_of(passed(self.model, blank, self.name))
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise UserError(
                f"backbone {self.name} returns {tuple(logits.shape)} for one image: a classifier "
                "must return logits (1, classes)"
            )
        return logits.shape[1]

    def chosen(self, choice: int | str) -> Tap:
        """Return the tap that a spec asks for."""
        if isinstance(choice, int):
            if not -len(self.info) <= choice < len(self.info):
                raise UserError(
                    f"backbone {self.name} has no tap {choice}: its {len(self.info)} stages or "
                    f"blocks are 0 to {len(self.info) - 1}; give one of them, or name a module in "
                    "`taps`"
                )
            choice = str(self.info[choice]["module"])
        module, item = re.fullmatch(r"(.*?)(?:\[(\d+)\])?", choice).groups()  # type: ignore[union-attr]
        if module not in self.modules:
            raise UserError(
                f"backbone {self.name} has no module {module}: give a name that the model's "
                f"`named_modules()` has.{nearest(module, self.modules)}"
            )
        tap = self._tap(module, None if item is None else int(item))
        if tap is None:
            given = [
                str(shape) if item is None else f"[{item}] {shape}"
                for (of, item), shape in self.shapes.items()
                if of == module
            ]
            raise UserError(
                f"module {choice} of backbone {self.name} returns "
                f"{', '.join(given) or 'no tensor'}, which is no feature map: choose other `taps`"
            )
        return tap

    def stages(self) -> tuple[Tap, ...]:
        """Return the last three taps of feature_info; none where it names no feature maps."""
        taps = [self._tap(stage["module"], None) for stage in self.info[-TAPS:]]
        return tuple(tap for tap in taps if tap) if all(taps) else ()

    def tree(self) -> tuple[Tap, ...]:
        """Return taps that are found in the module tree."""
        taps = {key: self._tap(*key) for key in self.shapes}
        spatial = {key: tap for key, tap in taps.items() if tap and min(tap.height, tap.width) > 1}
        candidates = [
            Candidate(
                module=module,
                item=item,
                kind=type(self.modules[module]).__name__,
                leaf=not any(True for _ in self.modules[module].children()),
                sequence=isinstance(self.modules[module], nn.Sequential),
                size=tap.height * tap.width,
            )
            for (module, item), tap in spatial.items()
        ]
        chosen = best_candidates(candidates, TAPS)
        if not chosen:
            raise UserError(
                f"found no feature maps in backbone {self.name}: of {len(self.modules)} modules, "
                f"none returns (1, C, h, w), (1, h, w, C) or (1, tokens, C) for an image of "
                f"{self.input_size[0]}×{self.input_size[1]}; name modules in `taps`, or say "
                "`taps: []` to explain it by its logits alone"
            )
        return tuple(spatial[candidate.module, candidate.item] for candidate in chosen)

    def _tap(self, module: str, item: int | None) -> Tap | None:
        """Describe a module's output as a tap; None where it is no feature map."""
        shape = self.shapes.get((module, item), ())
        if not shape or shape[0] != 1:
            return None
        if len(shape) == 4:
            return self._spatial(module, item, shape)
        if len(shape) == 3:
            return self._tokens(module, item, shape)
        return None

    def _spatial(self, module: str, item: int | None, shape: tuple[int, ...]) -> Tap | None:
        first, last = self._fits(*shape[2:]), self._fits(*shape[1:3])  # position of the channels
        channels = next((s["num_chs"] for s in self.info if s["module"] == module), None)
        if channels is not None and shape[1] != shape[3]:
            first, last = shape[1] == channels, shape[3] == channels
        if last and (not first or str(getattr(self.model, "output_fmt", "")).endswith("NHWC")):
            return Tap(module, "NHWC", shape[3], shape[1], shape[2], item=item)
        return Tap(module, "NCHW", shape[1], shape[2], shape[3], item=item) if first else None

    def _tokens(self, module: str, item: int | None, shape: tuple[int, ...]) -> Tap | None:
        own = getattr(self.model, "num_prefix_tokens", 0)  # not at all modules: some add them late
        for prefix, aspect in [(p, a) for a in (self.input_size, (1, 1)) for p in (own, *PREFIXES)]:
            height, width = _grid(shape[1] - prefix, aspect)
            if 0 < height * width == shape[1] - prefix:
                order = self._order(module, shape[1])
                return Tap(module, "tokens", shape[2], height, width, prefix, item, order)
        return None

    def _order(self, module: str, tokens: int) -> tuple[int, ...]:
        """Return the index of each position's token, or () where tokens stand row by row.

        Hiera's tokens are ordered by windows.
        """
        reroll, block = getattr(self.model, "reroll", None), re.fullmatch(r"blocks\.(\d+)", module)
        if reroll is None or block is None:
            return ()
        index = torch.arange(tokens, device="cpu").view(1, tokens, 1)
        return tuple(reroll(index, int(block[1])).flatten().tolist())

    def _fits(self, height: int, width: int) -> bool:
        """Say whether a size has the aspect of the input, within a pixel, as feature maps have."""
        high, wide = self.input_size
        return height <= high and width <= wide and abs(height * wide / high - width) <= 1


def _grid(patches: int, aspect: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a grid of `patches` tokens whose aspect is the input's."""
    height = max(1, round((max(patches, 0) * aspect[0] / aspect[1]) ** 0.5))
    return height, patches // height
