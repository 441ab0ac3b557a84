"""What a classifier returns: where its logits are, whether they are logits, whether they can learn.

Everything above works with logits (B, K). A classifier that returns something else is mended here,
once, when it is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ttame_core.backbones.wrapping import is_quantised
from ttame_core.errors import UserError

NAMES = ("logits", "output", "outputs", "out", "scores", "predictions", "pred")
HALF = 0.5  # a class that does not exclude others counts as predicted above it
SUM = 1e-3  # by which a row of probabilities may miss 1
COLOURS = 3  # channels of a picture
LEAST = 10  # outputs within [0, 1] that are not so by chance
SMALLEST = torch.finfo(torch.float32).tiny
LARGEST = 1 - torch.finfo(torch.float32).eps / 2


def logits_of(output: Any) -> Tensor:
    """Find the logits in what a classifier returns.

    Args:
        output: a tensor; or a mapping, object, list or tuple that holds them. The logits are the
            tensor with one of the names NAMES, else the only tensor, else the only tensor with two
            dimensions.

    Returns:
        The logits, (B, K) or, of a classifier with one, (B, 1) or (B,).

    Raises:
        UserError: there is no tensor, or more than one could be the logits.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        named = dict(output)
    elif hasattr(output, "_asdict"):
        named = output._asdict()
    elif isinstance(output, list | tuple):
        named = {f"[{place}]": value for place, value in enumerate(output)}
    else:
        named = dict(getattr(output, "__dict__", {}))
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    for name in NAMES:
        if name in tensors:
            return tensors[name]
    flat = {name: value for name, value in tensors.items() if value.ndim == 2}
    for choice in (tensors, flat):
        if len(choice) == 1:
            return next(iter(choice.values()))
    given = ", ".join(f"{name} {tuple(value.shape)}" for name, value in tensors.items())
    raise UserError(
        f"the classifier returns a {type(output).__name__} with {given or 'no tensor'}, so it is "
        "not known which are its logits: let it return the logits alone, or name them `logits`"
    )


@dataclass(frozen=True)
class Outputs:
    """What is known of a classifier's outputs.

    Attributes:
        kind: `softmax` where classes exclude each other, `sigmoid` where they do not.
        differentiable: whether gradients of the logits reach the image.
    """

    kind: str = "softmax"
    differentiable: bool = True

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each class, (…, K) float32."""
        logits = logits.float()
        return logits.sigmoid() if self.kind == "sigmoid" else logits.softmax(dim=-1)

    def predict(self, probabilities: Tensor, targets: Tensor, above: float = HALF) -> Tensor:
        """Say which targets (B,) are predicted by probabilities (B, K): (B,) bool.

        An image's most probable class counts as predicted. Where classes do not exclude each other,
        so does each class with a probability above a threshold.
        """
        predicted = probabilities.argmax(dim=1) == targets
        if self.kind == "sigmoid":
            predicted |= probabilities.gather(1, targets[:, None])[:, 0] > above
        return predicted

    def predicted(self, logits: Tensor, above: float = HALF) -> tuple[Tensor, Tensor]:
        """Return the predicted classes of images.

        An image's most probable class counts as predicted. Where classes do not exclude each other,
        so does each class with a probability above a threshold.

        Args:
            logits: (B, K).
            above: the threshold, in (0, 1).

        Returns:
            Classes (B, T) int64, the most probable first, where T is the largest number of
            predicted classes of an image; and (B, T) bool, which is False for classes that are not
            predicted and only fill the row.
        """
        if self.kind != "sigmoid":
            best = logits.argmax(dim=1, keepdim=True)
            return best, torch.ones_like(best, dtype=torch.bool)
        probabilities = self.probabilities(logits)
        most = int((probabilities > above).sum(dim=1).max().clamp(min=1))
        classes = logits.topk(most, dim=1).indices
        chosen = probabilities.gather(1, classes) > above
        chosen[:, 0] = True
        return classes, chosen

    def one_predicted(self, logits: Tensor) -> Tensor:
        """Return one predicted class (B,) for each image of a batch with logits (B, K).

        Of an image's several predicted classes, its place in the batch decides which one it is. As
        batches are in random order, a training sees all of them.
        """
        classes, chosen = self.predicted(logits)
        turns = torch.arange(len(logits), device=logits.device) % chosen.sum(dim=1)
        return classes.gather(1, turns[:, None])[:, 0]

    def alone(
        self, masked: Tensor, whole: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits whose softmax gives each target its probability, for losses with a softmax.

        Where classes exclude each other, these are the given logits. Where they do not, all classes
        but the target are left out: its logit z becomes the two logits 0 and z, whose softmax is
        the sigmoid of z, and the target becomes the second of two classes.

        Args:
            masked: (B, K) float32 logits of masked images.
            whole: (B, K) float32 logits of the same images unmasked.
            targets: (B,) int64 classes.

        Returns:
            Both logits, (B, K) or (B, 2), and the targets in them.
        """
        if self.kind != "sigmoid":
            return masked, whole, targets

        def pair(logits: Tensor) -> Tensor:
            chosen = logits.gather(1, targets[:, None])
            return torch.cat([torch.zeros_like(chosen), chosen], dim=1)

        return pair(masked), pair(whole), torch.ones_like(targets)


def observe(model: nn.Module, inputs: Tensor, name: str, declared: str | None) -> Outputs:
    """Find out what a classifier returns, and mend it where it does not return logits.

    Probabilities become logits by their log, or by log p / (1 − p) where they came from a sigmoid.
    A single logit z becomes the two logits 0 and z, whose softmax gives the sigmoid of z.

    Args:
        model: the network; it gets a hook where something is to be mended.
        inputs: (B, C, H, W) normalised images, all different.
        name: name of the backbone, for messages.
        declared: `softmax`, `sigmoid` or `binary`, as a spec has it; None to infer it from the
            network.

    Raises:
        UserError: the network cannot take the images, returns no logits or none that are finite,
            or contradicts what is declared.
    """
    last, inputs = _LastSigmoid(), inputs.clone().requires_grad_()
    # A script that is optimised for these images would keep tensors that training cannot use.
    with torch.enable_grad(), torch.jit.optimized_execution(False), last:
        returned = passed(model, inputs, name)
    raw = logits_of(returned)
    differentiable = raw.requires_grad and not is_quantised(model)
    raw = raw.detach().float()
    if raw.is_meta:
        return Outputs()
    single = raw.ndim == 1 or raw.shape[1:] == (1,)
    if not single and (raw.ndim != 2 or raw.shape[1] < 2):
        raise UserError(
            f"backbone {name} gives {tuple(raw.shape)} for {len(inputs)} images: a classifier "
            "gives logits (images, classes)"
        )
    if not raw.isfinite().all():
        weights = (key for key, value in model.state_dict().items() if not _finite(value))
        where = next(weights, None)
        raise UserError(
            f"backbone {name} gives logits that are not finite: "
            + (
                f"its weights {where} are not finite either; give other weights"
                if where
                else "check its weights and preprocessing"
            )
        )
    activation = _activation(raw, last)
    if (declared == "binary") > single or (declared == "softmax" and single):
        count = "one output" if single else f"{raw.shape[1]} outputs"
        needed = "a single output" if declared == "binary" else "two outputs or more"
        raise UserError(
            f"backbone {name} has {count}, but `outputs: {declared}` is for {needed}: leave "
            "`outputs` out"
        )
    if {declared, activation} == {"softmax", "sigmoid"}:
        raise UserError(
            f"backbone {name} ends in a {activation}, but `outputs` says {declared}: leave "
            "`outputs` out"
        )
    if activation or single:
        model.register_forward_hook(_Mend(activation, single))
        what = f"ends in a {activation}" if activation else "has one logit"
        logging.getLogger(__name__).warning("backbone %s %s: logits are made of it", name, what)
    own = getattr(model, "own_outputs", None)  # what its configuration says
    several = not single and "sigmoid" in (activation, declared or own)
    return Outputs("sigmoid" if several else "softmax", differentiable)


def passed(model: nn.Module, inputs: Tensor, name: str) -> Any:
    """Return the network's output for images (B, C, H, W).

    Raises:
        UserError: the network cannot take images of this size or number of channels.
    """
    try:
        return model(inputs)
    except (AssertionError, RuntimeError, ValueError) as error:
        channels, height, width = inputs.shape[1:]
        first = _first_convolution(model)
        if first is not None and first.in_channels != channels:
            raise UserError(
                f"backbone {name} takes images of {first.in_channels} channels, and its "
                f"`preprocessing` is for {channels}"
            ) from error
        raise UserError(
            f"backbone {name} cannot take images of {height}×{width}: {error}; set "
            "preprocessing.input_size, or args.img_size for models of a fixed size"
        ) from error


def channels_of(model: nn.Module, size: tuple[int, int], told: int | None = None) -> int:
    """Return how many channels the images have that a network takes.

    Args:
        model: the network.
        size: (height, width) of its images.
        told: the number as the network's arguments tell it; None to try.
    """
    told = told or getattr(getattr(model, "config", None), "num_channels", None)
    first = _first_convolution(model)
    if told or first is None or first.in_channels == COLOURS:
        return told or COLOURS
    device = next((parameter.device for parameter in model.parameters()), None)
    try:  # some networks in colours begin with pixels as channels
        with torch.no_grad():
            model(torch.zeros(2, COLOURS, *size, device=device))
    except (AssertionError, RuntimeError, ValueError):
        return first.in_channels
    return COLOURS


def _first_convolution(model: nn.Module) -> nn.Conv2d | None:
    return next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)


def _finite(value: Any) -> bool:
    return not isinstance(value, Tensor) or bool(value.isfinite().all())


def _activation(raw: Tensor, last: _LastSigmoid) -> str | None:
    """Say which activation a network ends in, from its outputs: `softmax`, `sigmoid` or None."""
    low, high = raw.aminmax()
    if low < 0 or high > 1:
        return None
    if raw.ndim == 2 and raw.shape[1] > 1 and ((raw.sum(dim=1) - 1).abs() < SUM).all():
        return "softmax"
    if last.result is not None and torch.equal(last.result.flatten(), raw.flatten()):
        return "sigmoid"
    untraced = last.calls == 0 and raw.numel() >= LEAST  # a script, which runs unseen
    return "sigmoid" if untraced else None


class _LastSigmoid(TorchFunctionMode):
    """A context that stores the result of the last sigmoid, and counts all functions of PyTorch."""

    FUNCTIONS = frozenset(
        {torch.sigmoid, Tensor.sigmoid, functional.sigmoid, torch.special.expit, torch.sigmoid_}
    )

    def __init__(self) -> None:
        super().__init__()
        self.result: Tensor | None = None
        self.calls = 0

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self.calls += 1
        if function in self.FUNCTIONS:
            self.result = result.detach()
        return result


@dataclass(frozen=True)
class _Mend:
    """A hook that turns a network's probabilities into logits, and a single logit z into (0, z)."""

    activation: str | None
    single: bool

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Tensor:
        logits = logits_of(output).float()
        if self.activation == "softmax":
            logits = logits.clamp(min=SMALLEST).log()
        elif self.activation == "sigmoid":
            logits = logits.clamp(SMALLEST, LARGEST).logit()
        if self.single:
            logits = logits.reshape(-1, 1)
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return logits
