"""Cross-attention to hard-searched history as a module; `glass_kernels.hard_search_attention`."""

from __future__ import annotations

from torch import Tensor

from glass_kernels.checks import FLOATS, check_tensor
from glass_kernels.hard_search_attention import hard_search_attention
from glass_kernels.modules.projections import Projections


class RetrievedAttention(Projections):
    """Z_ret of GLASS (arXiv 2602.05663): decoder states attend to the items that a search found.

    Of a decoder layer's own cross-attention this has the projections of query, key, value and
    output, without bias. Keys and values are those of the small token table, made once a step by
    `tables` and shared by every user, set and beam; in generation, once for all steps. No
    embedding of a retrieved item is ever gathered or projected.

    Args:
        d_model: width C of the decoder state and of the token embeddings.
        num_heads: H.
        head_dim: Dh.
        scale: factor of the attention scores; T5-style attention, the paper's, has none.
        train_table: let gradients reach what `tables` is given. The paper does not let them reach
            the token embeddings here; with a trained layer between those and `tables`, detach them
            before it and set this.

    Raises ValueError for sizes below 1.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        head_dim: int,
        *,
        scale: float = 1.0,
        train_table: bool = False,
    ) -> None:
        for name, size in (("d_model", d_model), ("num_heads", num_heads), ("head_dim", head_dim)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, was {size}")
        super().__init__(d_model, num_heads, head_dim)
        self.d_model = d_model
        self.scale = scale
        self.train_table = train_table

    def tables(self, token_embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [Vt, H, Dh] of every row of the token table, for `forward`.

        Args:
            token_embeddings: float [Vt, C]; they get gradients with `train_table` alone.

        Raises ValueError for another shape.
        """
        check_tensor(
            "token_embeddings", token_embeddings, shape=(None, self.d_model), dtypes=FLOATS
        )
        rows = token_embeddings if self.train_table else token_embeddings.detach()
        return self.keys_values(rows)

    def forward(
        self,
        x: Tensor,
        tables: tuple[Tensor, Tensor],
        tokens: Tensor,
        positions: Tensor,
        lengths: Tensor,
        *,
        backend: str | None = None,
    ) -> Tensor:
        """Retrieved context [B, S, P, C]; zeros for a set without items.

        Args:
            x: float [B, S, P, C], the decoder state at P positions of S sets (targets in training,
                beams in generation) of B users.
            tables: what `tables` returned.
            tokens: int32 or int64 [T, n_tok], token ids of every event of the searched histories.
            positions: int32 or int64 [B, S, M] and
            lengths: int32 or int64 [B, S], as `HardSearch` returns them.
            backend: see `glass_kernels.hard_search_attention`.

        Raises ValueError for wrong shapes, dtypes and devices, and for ids out of range.
        """
        check_tensor("x", x, shape=(None, None, None, self.d_model), dtypes=FLOATS)
        found = hard_search_attention(
            self.split(self.query(x)),
            *tables,
            tokens,
            positions,
            lengths,
            scale=self.scale,
            backend=backend,
        )
        context: Tensor = self.output(found.flatten(-2))
        return context

    def extra_repr(self) -> str:
        """Settings shown by `print(module)`."""
        return (
            f"{self.d_model}, num_heads={self.num_heads}, head_dim={self.head_dim}, "
            f"scale={self.scale}, train_table={self.train_table}"
        )
