"""Puts the studio's attention on a diffusers UNet, DiT or autoencoder: the `attention=` setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from studio.kernels import attention as kernels
from studio.kernels.probing import TOLERANCE
from studio.pipelines.errors import UsageError

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

STOCK = {
    "AttnProcessor": "Plain",
    "AttnProcessor2_0": "Plain",
    "SlicedAttnProcessor": "Plain",
    "XFormersAttnProcessor": "Plain",
    "JointAttnProcessor2_0": "Joint",
    "XFormersJointAttnProcessor": "Joint",
}


@dataclass(frozen=True)
class Plain:
    """Self- or cross-attention of UNets, autoencoders and transformers, as diffusers' `AttnProcessor2_0`.

    Unlike it, this honours `scale` and `upcast_attention`, and a query whose keys are all masked gives zeros.
    """

    choice: str = "auto"

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """hidden_states: `[B, L, C]` or `[B, C, h, w]`, also returned; encoder_hidden_states: `[B, S, E]`."""
        x = hidden_states if attn.spatial_norm is None else attn.spatial_norm(hidden_states, temb)
        x = x.flatten(2).mT if x.ndim == 4 else x
        if attn.group_norm is not None:
            x = attn.group_norm(x.mT).mT
        context = _context(attn, x, encoder_hidden_states)
        q = _heads(attn, attn.to_q(x), attn.norm_q)
        k = _heads(attn, attn.to_k(context), attn.norm_k)
        v = _heads(attn, attn.to_v(context))
        out = _project(attn, _merge(_attend(attn, q, k, v, attention_mask, self.choice)))
        if hidden_states.ndim == 4:
            out = out.mT.reshape(hidden_states.shape)
        out = out + hidden_states if attn.residual_connection else out
        return out / attn.rescale_output_factor


@dataclass(frozen=True)
class Joint:
    """Joint attention of SD3: picture and text tokens see each other (Esser et al. 2403.03206, figure 2b)."""

    choice: str = "auto"

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """hidden_states: `[B, L, C]`; encoder_hidden_states: `[B, T, C]`, None in SD3.5's second attention.

        Returns the new picture tokens, and the new text tokens if there were any.
        """
        parts = [_qkv(attn, hidden_states, "to_{}", "norm_{}")]
        if encoder_hidden_states is not None:
            parts.append(_qkv(attn, encoder_hidden_states, "add_{}_proj", "norm_added_{}"))
        q, k, v = (torch.cat(tensors, dim=2) for tensors in zip(*parts, strict=True))
        out = _merge(_attend(attn, q, k, v, attention_mask, self.choice))
        if encoder_hidden_states is None:
            return _project(attn, out)
        picture, text = out.split([hidden_states.shape[1], encoder_hidden_states.shape[1]], dim=1)
        return _project(attn, picture), text if attn.context_pre_only else attn.to_add_out(text)


PROCESSORS: dict[str, Callable[[str], Any]] = {"Plain": Plain, "Joint": Joint}


def install(net: nn.Module, choice: str = "auto") -> None:
    """Makes every attention layer of `net` use `studio.kernels.attention.attend` with this choice.

    Networks without diffusers attention are left alone. Layers with a processor of another kind (IP-Adapter,
    fused projections) keep it under "auto". Raises UsageError for an unknown choice, one that does not work
    on the network's device, or a named one that such a layer cannot take.
    """
    _check(net, choice)
    for name, layer in _layers(net):
        old = type(layer.processor).__name__
        kind = STOCK.get(old, old)
        if kind in PROCESSORS:
            layer.set_processor(PROCESSORS[kind](choice))
        elif choice != "auto":
            raise UsageError(f"attention='{choice}' cannot replace {old} of layer {name}; use attention='auto'")


def _check(net: nn.Module, choice: str) -> None:
    """Asks a named implementation for an answer now rather than in the middle of the run."""
    if choice not in kernels.CHOICES:
        raise UsageError(f"attention has no '{choice}'; it has {', '.join(kernels.CHOICES)}")
    weight = next((p for p in net.parameters() if p.is_floating_point() and p.device.type != "meta"), None)
    if choice == "auto" or weight is None:
        return
    # quantised and 8-bit weights compute in half precision; what they compute in is what must answer
    dtype = weight.dtype if weight.dtype in TOLERANCE else torch.bfloat16
    try:
        kernels.named(choice, weight.device, dtype)
    except kernels.Unavailable as error:
        raise UsageError(str(error)) from error


def _layers(net: nn.Module) -> list[tuple[str, Attention]]:
    from diffusers.models.attention_processor import Attention

    return [(name, module) for name, module in net.named_modules() if isinstance(module, Attention)]


def _context(attn: Attention, x: Tensor, context: Tensor | None) -> Tensor:
    if context is None:
        return x
    return attn.norm_encoder_hidden_states(context) if attn.norm_cross is not None else context


def _qkv(attn: Attention, x: Tensor, projection: str, norm: str) -> list[Tensor]:
    """q, k, v `[B, H, L, D]` of one kind of tokens; q and k through their norms, where the layer has any."""
    norms = {letter: getattr(attn, norm.format(letter)) for letter in "qk"}
    return [_heads(attn, getattr(attn, projection.format(letter))(x), norms.get(letter)) for letter in "qkv"]


def _heads(attn: Attention, x: Tensor, norm: nn.Module | None = None) -> Tensor:
    """`[B, L, H D]` -> `[B, H, L, D]`, normed over D."""
    x = x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    return x if norm is None else norm(x)


def _merge(x: Tensor) -> Tensor:
    """`[B, H, L, D]` -> `[B, L, H D]`."""
    return x.transpose(1, 2).flatten(2)


def _project(attn: Attention, x: Tensor) -> Tensor:
    linear, dropout = attn.to_out
    return dropout(linear(x))


def _attend(attn: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, choice: str) -> Tensor:
    if mask is not None and mask.ndim < 4:
        mask = _mask(mask, len(q))
    return kernels.attend(q, k, v, mask, choice, scale=attn.scale, upcast=attn.upcast_attention)


def _mask(mask: Tensor, batch: int) -> Tensor:
    """diffusers' masks `[B, S]`, `[B, 1 or L, S]` or `[B H, 1 or L, S]` as `[B, 1 or H, 1 or L, S]`."""
    mask = mask[:, None] if mask.ndim == 2 else mask
    return mask.unflatten(0, (min(batch, len(mask)), -1))
