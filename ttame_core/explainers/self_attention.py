"""The self-attention of plain vision transformers: its matrices, and flow through them.

A plain vision transformer attends in every block from all tokens to all tokens of an image, and
reads its logits from the class token or from a pool of the patch tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ttame_core.backbones import Backbone
from ttame_core.explainers.base import NotApplicable


class Explicit(TorchFunctionMode):
    """A context in which attention is computed step by step, so that its matrices can be seen.

    Models of timm, torchvision and Hugging Face call PyTorch's fused function, which makes no
    matrix. In this context the call comes here, and the model stays as it is.

    Attributes:
        matrices: (B, heads, N, N) after the softmax, one per attention, first block first.
        mixed: (B, heads, N, d), the output of the last attention.
        foreign: whether there was attention of another kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.matrices: list[Tensor] = []
        self.mixed: Tensor | None = None
        self.foreign = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self.attention(*args, **(kwargs or {}))
        if func is F.multi_head_attention_forward:
            with self:  # so that calls of inner functions come here too
                return _multi_head_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Compute what torch's scaled_dot_product_attention computes, without dropout."""
        if query.ndim != 4 or query.shape != key.shape or is_causal or enable_gqa:
            self.foreign = True
            return F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=attn_mask,
                is_causal=is_causal,
                scale=scale,
                enable_gqa=enable_gqa,
            )
        factor = query.shape[-1] ** -0.5 if scale is None else scale

        def softmax(scores: Tensor) -> Tensor:
            scores = scores * factor
            if attn_mask is not None and attn_mask.dtype == torch.bool:
                scores = scores.masked_fill(~attn_mask, -torch.inf)
            elif attn_mask is not None:
                scores = scores + attn_mask
            return scores.softmax(dim=-1)

        matrix = self.use(self.elementwise(softmax, self.product(query, key.mT)))
        self.matrices.append(self.keep(matrix))
        self.mixed = self.product(matrix, value)
        return self.mixed

    def use(self, matrix: Tensor) -> Tensor:
        """Return the matrix that attention uses in place of this one."""
        return matrix

    def keep(self, matrix: Tensor) -> Tensor:
        """Return what is stored of a matrix (B, heads, N, N) in `matrices`."""
        return matrix

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the matrix product of two operands of attention."""
        return a @ b

    def elementwise(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return a function of each element of x."""
        return function(x)


def _multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute self-attention of (N, B, D) tokens, as torch's nn.MultiheadAttention does."""
    masked = options.get("attn_mask") is not None
    if in_proj_weight is None or bias_k is not None or masked or not query is key is value:
        raise NotApplicable("its attention is not plain self-attention")
    parts = F.linear(query, in_proj_weight, in_proj_bias).chunk(3, dim=-1)
    heads = [part.unflatten(2, (num_heads, -1)).permute(1, 2, 0, 3) for part in parts]
    mixed = F.scaled_dot_product_attention(*heads).permute(2, 0, 1, 3).flatten(2)
    return F.linear(mixed, out_proj_weight, out_proj_bias), None


@dataclass(frozen=True)
class PlainTransformer:
    """The layout of the tokens of a plain vision transformer.

    Attributes:
        blocks: number of attentions.
        prefix: number of tokens before the patches, which are ordered row by row.
        read: tokens that the logits are computed from.
    """

    blocks: int
    prefix: int
    height: int
    width: int
    read: tuple[int, ...]

    def grid(self, values: Tensor) -> Tensor:
        """Return the values (B, N) of tokens as maps (B, h, w) of the patches among them."""
        return values[:, self.prefix :].unflatten(1, (self.height, self.width))

    def flow(self, matrices: Iterable[Tensor]) -> Tensor:
        """Return the flow of each patch to the tokens that the logits are computed from.

        That is the class token's row of the product of all matrices; where patch tokens are pooled,
        it is the mean of their rows. These are dominated by the flow of each patch to itself, so
        the product is computed in double precision.

        Args:
            matrices: (B, N, N) of each block, the first block first; row i has the shares that
                token i takes from all tokens. The last block is leftmost in the product.

        Returns:
            Maps (B, h, w), at least 0.
        """
        last, *earlier = reversed([matrix.double() for matrix in matrices])
        row = last[:, list(self.read)].mean(dim=1, keepdim=True)
        for matrix in earlier:
            row = row @ matrix
        maps = self.grid(row[:, 0])
        return (maps - maps.amin(dim=(1, 2), keepdim=True)).float()


def plain_transformer(backbone: Backbone) -> PlainTransformer:
    """Find the layout of a backbone's tokens by watching a forward pass.

    Raises:
        NotApplicable: an attention is not from all tokens to all tokens, or the backbone's features
            are not the tokens of the image's patches.
    """
    tap = backbone.taps[-1] if backbone.taps else None
    if tap is None or tap.layout != "tokens" or tap.order:
        raise NotApplicable(
            f"{backbone.name} is no plain vision transformer: it has no patch tokens"
        )
    tokens = tap.prefix + tap.height * tap.width
    images = noise(backbone)
    with torch.enable_grad(), eager(backbone), Explicit() as attention:
        logits = backbone(images.requires_grad_())
    shapes = {(len(m), *m.shape[2:]) for m in attention.matrices}
    if attention.foreign or shapes != {(len(images), tokens, tokens)}:
        raise NotApplicable(
            f"{backbone.name} is no plain vision transformer: not every attention in it is from "
            f"all its {tokens} tokens to all"
        )
    (gradient,) = torch.autograd.grad(logits.square().sum(), attention.mixed)
    read = gradient.abs().amax(dim=(0, 1, 3)).nonzero().flatten().tolist()
    patches = range(tap.prefix, tokens)
    if any(token >= tap.prefix for token in read):
        read = [*(token for token in read if token < tap.prefix), *patches]
    if not read:
        raise NotApplicable(f"the logits of {backbone.name} do not depend on its last attention")
    return PlainTransformer(len(attention.matrices), tap.prefix, tap.height, tap.width, tuple(read))


def transformer_blocks(backbone: Backbone, transformer: PlainTransformer) -> list[nn.Module]:
    """Find the modules that hand on the tokens, one for each attention, first block first.

    Raises:
        NotApplicable: there are none.
    """
    tokens = transformer.prefix + transformer.height * transformer.width
    for container in backbone.model.modules():
        blocks = list(container.children())
        if len(blocks) != transformer.blocks or len({type(block) for block in blocks}) > 1:
            continue
        with Outputs(blocks) as outputs, torch.no_grad(), eager(backbone):
            backbone(noise(backbone))
        if [o.shape[:2] for o in outputs.tokens] == [(2, tokens)] * len(blocks):
            return blocks
    raise NotApplicable(f"the blocks of {backbone.name} are not modules that follow each other")


class Outputs:
    """The tokens that blocks hand on, in this context.

    Attributes:
        tokens: (B, N, C) of each block, in the order in which they ran.
        last: all that the last block returned: its tokens, or a tuple that begins with them.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self.blocks = blocks
        self.tokens: list[Tensor] = []
        self.last: Any = None

    def __enter__(self) -> Outputs:
        self.hooks = [block.register_forward_hook(self._see) for block in self.blocks]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _see(self, module: nn.Module, args: Any, output: Any) -> None:
        self.last = output
        tokens = output[0] if isinstance(output, tuple) else output
        if isinstance(tokens, Tensor):
            self.tokens.append(tokens)


def noise(backbone: Backbone) -> Tensor:
    """Make two random images, normalised."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, *backbone.preprocessing.shape, generator=generator).to(backbone.device)
    return backbone.normalise(noise)


def eager(backbone: Backbone) -> AbstractContextManager[Any]:
    """Return a context in which a compiled model runs without compilation."""
    if backbone.model._compiled_call_impl is None:
        return nullcontext()  # importing the compiler takes seconds
    return torch.compiler.set_stance("force_eager")
