"""One position of every beam through a decoder of GLASS, as one call: for inference on a CPU.

Ours, not in the papers: what GLASS's decoder layers (arXiv 2602.05663, sections 3 and 4) compute,
without the fixed costs of some twenty calls a layer, and with a beam's rows in the cache all the
way. `glass.models.fused` holds the same equations in plain PyTorch, which run wherever this does
not: on other devices, in other dtypes, without the compiled library.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from glass_kernels.backend import active_backend
from glass_kernels.checks import check_tensor
from glass_kernels.decoder_step.library import AVAILABLE
from glass_kernels.library import caller_mistake, load
from glass_kernels.panels import WHOLE, panels

__all__ = ["decoder_step", "pack_decoder_layer", "runs", "takes"]

_MISTAKES = (
    "x must", "weights must", "scale must", "bias must", "keys must", "keys and values must",
    "values must", "mask must", "past must", "ancestors must", "tokens must", "positions must",
    "tokens and lengths must", "positions and lengths must", "lengths must",
)  # fmt: skip


def takes(*tensors: Tensor) -> bool:
    """Whether this can run for tensors: float32 on the CPU, where the library is built."""
    return AVAILABLE and all(t.is_cpu and t.dtype == torch.float32 for t in tensors)


def runs(*tensors: Tensor) -> bool:
    """Whether it is to run now: not where another backend is named, or a graph is traced."""
    return (
        takes(*tensors) and not torch.compiler.is_compiling() and active_backend() in (None, "cpp")
    )


def pack_decoder_layer(
    qkv: Tensor,
    attended: Tensor,
    query: Tensor,
    context: Tensor,
    up: Tensor,
    down: Tensor,
    *,
    found: Tensor | None = None,
    tables: tuple[Tensor, Tensor] | None = None,
    gate: tuple[Tensor, Tensor] | None = None,
) -> list[Tensor]:
    """Weights of a layer as `decoder_step` reads them; all float32 on the CPU, [outputs, inputs].

    Every block's input is x / sqrt(|x|^2 + 1e-6 C): what else a norm does (its weight, and the
    factor sqrt(C)) must be in the weight that follows.

    Args:
        qkv: [3HD, C] of self-attention: queries, keys, values.
        attended: [C, HD], its output.
        query: [HD, C] of the attention to the encoder's output; with `found` [2HD, C], followed by
            that of the attention to retrieved items.
        context: [C, HD], output of the attention to the encoder's output.
        up: [F, C] and
        down: [C, F] of the feed-forward block.
        found: [C, HD], output of the attention to retrieved items; None without them.
        tables: keys and values [Vt, H, D] of every token; needed with `found`.
        gate: weight [C, 2C] and bias [C] of the learned gate; None: a fixed one.

    Raises:
        ValueError: `found` without `tables`, or a weight that is not float32 on the CPU.
        RuntimeError: the compiled library is missing.
    """
    if not AVAILABLE:
        raise RuntimeError(f"decoder_step is not available: {load('cpp')[1]}")
    plain = {"qkv": qkv, "attended": attended, "query": query, "context": context}
    plain |= {"up": up, "down": down}
    for name, weight in plain.items():
        check_tensor(name, weight, ndim=2, dtypes=(torch.float32,), device=torch.device("cpu"))
    packed = [panels(weight) for name, weight in plain.items() if name != "down"]
    packed.append(F.pad(down.t(), (0, -down.shape[0] % WHOLE)).contiguous())
    if found is None:
        return packed
    if tables is None:
        raise ValueError("tables must be given with found, was None")
    packed += [panels(found), torch.ops.glass.pack_token_rows(*(t.contiguous() for t in tables))]
    if gate is not None:
        weight, bias = gate
        width = weight.shape[0]
        packed += [panels(weight[:, :width]), panels(weight[:, width:]), bias.contiguous()]
    return packed


def decoder_step(
    x: Tensor,
    weights: Sequence[Tensor],
    scale: Tensor,
    bias: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    *,
    mask: Tensor | None = None,
    past: Sequence[Tensor] = (),
    ancestors: Tensor | None = None,
    tokens: Tensor | None = None,
    positions: Tensor | None = None,
    lengths: Tensor | None = None,
    fixed_gate: float = 0.5,
    gate_reads_state: bool = False,
    empty_is_short: bool = True,
) -> tuple[Tensor, Tensor]:
    """State that predicts the next code of each beam, and what later positions need of this one.

    Each layer: x += attention to the beam's own positions; x += Z; x += relu(x up) down. Z is the
    attention to the encoder's output, and where a history was searched g * Z_retrieved + (1 - g) *
    that. No row depends on another. Not differentiable.

    Args:
        x: float32 [B, W, C], embeddings of the newest codes.
        weights: of all layers one after another, each as from `pack_decoder_layer`.
        scale: float32 [C], factor of the last norm.
        bias: float32 [n + 1, H], of the scores with each position of a beam, the newest last.
        keys: float32 [B, H, N, D] a layer, of the encoder's output; any strides.
        values: likewise.
        mask: bool [B, 1, 1, N], true where the encoder's output may be attended to; None: all.
        past: results of the n positions before, float32 [layers, B, W_p, 2, HD] each.
        ancestors: int64 [B, W, n], the beam of its user that each beam was at each of them; needed
            with `past`.
        tokens: int [T, n_tok], positions: int [B, W, M], lengths: int [B, W]: see
            `hard_search_attention`; None: nothing is searched.
        fixed_gate: g, where the weights have no learned gate.
        gate_reads_state: the first half of the gate's input is the normed x, not Z_short.
        empty_is_short: no gate where `lengths` is 0.

    Returns:
        float32 [B, W, C], and float32 [layers, B, W, 2, HD] to be given as the next of `past`.

    Raises:
        ValueError: a wrong shape or dtype, or an id out of range.
        RuntimeError: the compiled library is missing.
    """
    if not AVAILABLE:
        raise RuntimeError(f"decoder_step is not available: {load('cpp')[1]}")
    arguments = (
        x, weights, scale, bias, keys, values, mask, past, ancestors, tokens, positions, lengths,
        fixed_gate, gate_reads_state, empty_is_short,
    )  # fmt: skip
    found: tuple[Tensor, Tensor]
    if torch.compiler.is_compiling():
        found = torch.ops.glass.decoder_step(*arguments)
        return found
    try:
        found = torch.ops.glass.decoder_step(*arguments)
    except RuntimeError as error:
        mistake = caller_mistake(error, _MISTAKES)
        if mistake is not None:
            raise mistake from None
        raise
    return found
