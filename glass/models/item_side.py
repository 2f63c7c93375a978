"""Items by themselves: one token each, spread over learned codebooks (IntRR, arXiv 2602.20704).

Shapes: V items, U distinct items, d width, K_l codes of level l.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass.config import ItemSideConfig
from glass_kernels.modules import RecursiveAssignment

if TYPE_CHECKING:
    from glass.data import Dataset
    from glass.sid import SidTable

_ITEMS_AT_ONCE = 8192
_OWN_SHARE = 0.1
"""Standard deviation of what tells items of one SID apart, where UIDs start from SIDs."""


class ItemSide(nn.Module):
    """Item side of a model whose items are one token each; has the network of both sides.

    An item's guidance is a linear map of its own embedding (UID) and, with `content`, of its
    frozen vector. An item that training does not know has no UID worth the name: with `content`
    its vector speaks alone; without, its token is the sum of its SID's codes.

    A base class, so that the weights are the model's own by name; of what the model has it reads
    the buffer `codes` and `codebook_sizes`.
    """

    codes: Tensor
    codebook_sizes: tuple[int, ...]
    seen: Tensor
    content: Tensor

    def _add_item_side(
        self, config: ItemSideConfig, d_model: int, num_items: int, content_dim: int
    ) -> None:
        if config.uid_start not in ("sid", "random"):
            raise ValueError(f"uid_start must be 'sid' or 'random', was {config.uid_start!r}")
        self._reads_content = config.content
        self._starts_from_sids = config.uid_start == "sid"
        self.register_buffer("seen", torch.ones(num_items, dtype=torch.bool))
        self.register_buffer("content", torch.zeros(num_items, content_dim))
        self.uids = nn.Embedding(num_items, config.uid_dim)
        self.guidance = nn.Linear(config.uid_dim + content_dim, d_model)
        self.network = RecursiveAssignment(
            d_model,
            self.codebook_sizes,
            hidden_dim=config.hidden_dim,
            assignment=config.assignment,
            context=config.context,
            temperature=config.temperature,
            learn_temperature=config.learn_temperature,
            codebook_std=config.codebook_std,
        )

    def _fill_item_side(self, table: SidTable, dataset: Dataset) -> None:
        self.seen.copy_(torch.from_numpy(dataset.train_counts > 0))
        if self._reads_content:
            self.content.copy_(torch.from_numpy(table.vectors))
        if self._starts_from_sids:
            self._start_from_sids()

    @torch.no_grad()
    def _start_from_sids(self) -> None:
        """UIDs that a linear map can read the codes from, of size 1 as before.

        A UID of its own is trained by the events of its item alone. Alike for items that share
        codes, UIDs learn what the codes mean together, and each adds what is its own.
        """
        own = self.uids.weight
        started = own * _OWN_SHARE
        for level, size in enumerate(self.codebook_sizes):
            of_codes = torch.randn(size, own.shape[1], device=own.device, dtype=own.dtype)
            started += of_codes[self.codes[:, level].long()] / len(self.codebook_sizes) ** 0.5
        own.copy_(started)

    def item_guidance(self, items: Tensor) -> Tensor:
        """Guidance [U, d] of items int64 [U]; without the UID of what training does not know."""
        uid = self.uids(items)
        if not self.training:
            uid = uid * self.seen[items, None]
        if self._reads_content:
            uid = torch.cat((uid, self.content[items].to(uid.dtype)), dim=-1)
        guidance: Tensor = self.guidance(uid)
        return guidance

    def item_tokens(self, items: Tensor, *, align: bool = False) -> tuple[Tensor, Tensor | None]:
        """Tokens [U, d] of distinct items int64 [U], and with `align` their losses [U]."""
        codes = self.codes[items]
        found = self.network(self.item_guidance(items), codes if align else None)
        token = found.token
        if not self.training and not self._reads_content:
            books = self.network.codebooks
            static = sum(F.embedding(codes[:, i], book) for i, book in enumerate(books))
            token = torch.where(self.seen[items, None], token, static)
        # A codebook of small numbers keeps the logits small; the backbone wants tokens of size 1.
        return token / self.network.codebook_std, found.loss

    @torch.no_grad()
    def all_item_tokens(self) -> Tensor:
        """Tokens [V, d] of every item."""
        items = torch.arange(self.codes.shape[0], device=self.codes.device)
        return torch.cat([self.item_tokens(p)[0] for p in torch.split(items, _ITEMS_AT_ONCE)])

    @torch.no_grad()
    def assignments(self, items: Tensor | None = None) -> list[Tensor]:
        """Soft assignment [U, K_l] of items to the codes of each level; None: of all items.

        The largest of each row is the item's redistributed code.
        """
        was = self.training
        self.eval()
        if items is None:
            items = torch.arange(self.codes.shape[0], device=self.codes.device)
        found = [
            self.network.distributions(self.item_guidance(part))
            for part in torch.split(items, _ITEMS_AT_ONCE)
        ]
        self.train(was)
        return [torch.cat(level) for level in zip(*found, strict=True)]
