"""Gated fusion as a module: `glass_kernels.gated_fusion` with its weights."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from glass_kernels.checks import FLOATS, check_tensor
from glass_kernels.gated_fusion import gated_fusion


class GatedFusion(nn.Module):
    """Mixes short-term context and retrieved history by a gate of each channel.

    Args:
        d_model: width d.
        gate: "learned", or "fixed": the constant `fixed_gate` and no parameters.
        fixed_gate: value of the constant gate in [0, 1].
        gate_input: first half of the learned gate's input: "short", the short-term context (the
            paper), or "state", the decoder state (the released code).

        track_gate: keep the gate of the last forward (its values, not its graph) until the next,
            for `mean_gate`. Exported graphs keep nothing.

    Attributes:
        weight: [d, 2d] and bias: [d]; only with gate="learned".

    Raises ValueError for settings out of range.
    """

    def __init__(
        self,
        d_model: int,
        gate: Literal["learned", "fixed"] = "learned",
        fixed_gate: float = 0.5,
        gate_input: Literal["short", "state"] = "short",
        *,
        track_gate: bool = True,
    ) -> None:
        super().__init__()
        if d_model < 1:
            raise ValueError(f"d_model must be at least 1, was {d_model}")
        if gate not in ("learned", "fixed"):
            raise ValueError(f"gate must be 'learned' or 'fixed', was {gate!r}")
        if gate_input not in ("short", "state"):
            raise ValueError(f"gate_input must be 'short' or 'state', was {gate_input!r}")
        if not 0 <= fixed_gate <= 1:
            raise ValueError(f"fixed_gate must be in [0, 1], was {fixed_gate}")
        self.d_model = d_model
        self.gate = gate
        self.fixed_gate = fixed_gate
        self.gate_input = gate_input
        self.track_gate = track_gate
        self._tracked: tuple[Tensor, Tensor | None] | None = None
        if gate == "learned":
            self.weight = nn.Parameter(torch.empty(d_model, 2 * d_model))
            self.bias = nn.Parameter(torch.empty(d_model))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights of scale 1/sqrt(2d) and a zero bias: the gate starts around one half."""
        if self.gate == "learned":
            bound = (2 * self.d_model) ** -0.5
            nn.init.uniform_(self.weight, -bound, bound)
            nn.init.zeros_(self.bias)

    @property
    def mean_gate(self) -> Tensor:
        """float32 scalar: mean gate of the last forward over the rows that had retrieval.

        0 if none had, or before the first forward with `track_gate`. Computed when read, detached
        and on the device of the contexts: only `.item()` or the like synchronises.
        """
        if self._tracked is None:
            return torch.zeros(())
        return _mean_gate(*self._tracked)

    def forward(
        self,
        short: Tensor,
        retrieved: Tensor,
        has_retrieval: Tensor | None = None,
        *,
        state: Tensor | None = None,
        return_gate: bool = False,
        backend: str | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Fused context [..., d], and with `return_gate` also the gate [..., d].

        Args:
            short: float [..., d].
            retrieved: [..., d] of the same dtype.
            has_retrieval: bool [...]; where false, the result is `short` and the gate 0.
            state: [..., d]; needed by gate_input="state" alone.
            return_gate: return (out, gate).
            backend: see `glass_kernels.gated_fusion`.

        Raises ValueError for wrong shapes, or if `state` is missing.
        """
        track = self.track_gate and not torch.compiler.is_exporting()
        if self.gate == "fixed":
            out = self._fixed(short, retrieved, has_retrieval)
            gate = self._fixed_gate(short, has_retrieval)
        else:
            if self.gate_input == "state" and state is None:
                raise ValueError("state must be given with gate_input='state', was None")
            # Parameters are float32 under autocast while the contexts are half precision.
            fused = gated_fusion(
                short,
                retrieved,
                self.weight.to(short.dtype),
                self.bias.to(short.dtype),
                has_retrieval,
                gate_input=state if self.gate_input == "state" else None,
                return_gate=return_gate or track,
                backend=backend,
            )
            if not (return_gate or track):
                return fused
            assert isinstance(fused, tuple)
            out, gate = fused
        if track:
            self._tracked = (gate.detach(), has_retrieval)
        return (out, gate) if return_gate else out

    def _fixed(self, short: Tensor, retrieved: Tensor, has_retrieval: Tensor | None) -> Tensor:
        """No product of matrices: plain operations, whatever the backend."""
        check_tensor("short", short, dtypes=FLOATS)
        device = short.device
        check_tensor(
            "retrieved", retrieved, shape=short.shape, dtypes=(short.dtype,), device=device
        )
        mixed = torch.lerp(short, retrieved, self.fixed_gate)
        if has_retrieval is None:
            return mixed
        rows = short.shape[:-1]
        check_tensor(
            "has_retrieval", has_retrieval, shape=rows, dtypes=(torch.bool,), device=device
        )
        return torch.where(has_retrieval[..., None], mixed, short)

    def _fixed_gate(self, short: Tensor, has_retrieval: Tensor | None) -> Tensor:
        """Constant [..., d] as a view of one value a row."""
        rows = short.detach()[..., :1]
        gate = torch.full_like(rows, self.fixed_gate)
        if has_retrieval is not None:
            gate = gate.masked_fill(~has_retrieval[..., None], 0.0)
        return gate.expand_as(short)

    def extra_repr(self) -> str:
        """Settings shown by `print(module)`."""
        kind = f"fixed_gate={self.fixed_gate}" if self.gate == "fixed" else self.gate_input
        return f"{self.d_model}, gate={self.gate!r}, {kind}"


def _mean_gate(gate: Tensor, has_retrieval: Tensor | None) -> Tensor:
    """float32 scalar: mean of `gate` [..., d] over the rows that `has_retrieval` names."""
    rows = gate.numel() // gate.shape[-1]
    if has_retrieval is None:
        count = torch.full((), float(rows), device=gate.device)
    else:
        count = has_retrieval.sum().float()
    return gate.sum(dtype=torch.float32) / (count * gate.shape[-1]).clamp(min=1.0)
