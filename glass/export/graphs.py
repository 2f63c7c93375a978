"""The encoder and each decoder step as modules of flat, named tensors, for `torch.export`.

Sizes: `users` B, `items` N of the short histories, `events` T of all searched histories,
`positions` of the encoder's output, `beams` W and, of the step before, `parents` P.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glass.data.batches import Batch
from glass.models import Encoded, Glass, Memory
from glass.models.copy_head import Copied
from glass_kernels import HistoryIndex

KeysValues = list[tuple[Tensor, Tensor]]


class EncoderForExport(nn.Module):
    """`Glass.encode` of tensors alone.

    Args of `forward`, in the order of `inputs`:
        short_items: int64 [B, N], N at least 1: newest items, -1 where there is none.
        long_items: int64 [T], T at least 3, and
        long_offsets: int64 [B+1]: searched histories, for SID-Tier and hard search alone.
        long_visits: int64 [T] and
        long_days: float32 [T]: see `Batch`; for the copy head alone.
    """

    def __init__(self, model: Glass) -> None:
        super().__init__()
        self.model = model
        self.inputs = ["short_items"]
        if model.tier is not None or model.hard_search is not None:
            self.inputs += ["long_items", "long_offsets"]
        if model.copy_head is not None:
            self.inputs += ["long_visits", "long_days"]
        self.outputs = _memory_names(model)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The tensors named by `outputs`."""
        given = dict(zip(self.inputs, inputs, strict=True))
        short = given["short_items"]
        none = short.new_zeros(0)
        encoded = self.model.encode(
            Batch(
                rows=short[:, 0],
                short_items=short,
                long_items=given.get("long_items", none),
                long_offsets=given.get("long_offsets", none),
                long_visits=given.get("long_visits", none),
                long_days=given.get("long_days", none),
                targets=short,
                padded=True,
            )
        )
        memory = encoded.memory
        assert memory.mask is not None
        out = [memory.mask, *_flat(memory.keys_values)]
        if encoded.index is not None and encoded.tokens is not None:
            out += [*encoded.index, encoded.tokens]
        if encoded.copied is not None:
            out += [encoded.copied.share, encoded.copied.first, encoded.copied.events]
        return tuple(out)


class StepForExport(nn.Module):
    """Logits of one level for every beam, from what the encoder and the step before left.

    Args of `forward`, in the order of `inputs`: those outputs of the encoder that this level
    reads, and from level 1 on
        codes: int64 [B, W, level] of every beam; -1 where a beam is dead.
        parents: int32 [B, W]: the beam of the step before that each goes on from.
        past_keys.<layer>, past_values.<layer>: float [B, P, H, level, D] of that step.

    Returns, by `outputs`, logits [B, W, K], and the keys and values for the next step. The first
    step has one beam a user. Every step searches the history again: that is cheaper than to carry
    what each beam's parent had found.
    """

    def __init__(self, model: Glass, level: int) -> None:
        super().__init__()
        self.model = model
        self.level = level
        self.num_layers = len(model.decoder.layers)
        past = _names("past", self.num_layers)
        first = ("copied_first", "copied_events")
        later = ("order", "bucket_offsets", "tokens", "copied_share")
        unread = later if level == 0 else first
        self.inputs = [name for name in _memory_names(model) if name not in unread]
        if level > 0:
            self.inputs += ["codes", "parents", *past]
        self.outputs = ["logits", *past]
        if model.hard_search is not None and level > 0:
            self._keep_tables()

    @torch.no_grad()
    def _keep_tables(self) -> None:
        """The projections of the token table are constants: made here, not in every call."""
        rows = self.model.retrieved_projection(self.model.token_table)
        for i, layer in enumerate(self.model.decoder.layers):
            keys, values = layer.retrieved.tables(rows)  # type: ignore[operator, union-attr]
            self.register_buffer(f"table_keys_{i}", keys.clone())
            self.register_buffer(f"table_values_{i}", values.clone())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The tensors named by `outputs`."""
        given = dict(zip(self.inputs, inputs, strict=True))
        model, encoded = self.model, self._encoded(given)
        users = given["mask"].shape[0]
        if self.level == 0:
            codes = given["mask"].new_zeros((users, 1, 0), dtype=torch.int64)
            retrieval, past, newest = None, None, codes
        else:
            codes = given["codes"]
            retrieval, past = model.retrieve(encoded, codes[..., 0]), self._past(given)
            newest = codes[..., -1:].clamp(min=0)
        hidden, present = model.decode(encoded, newest, retrieval, past)
        logits = model.level_logits(hidden[:, :, -1], self.level, encoded, retrieval, codes)
        beams = codes.shape[1]
        return (
            logits.float(),
            *(torch.unflatten(part, 0, (users, beams)) for part in _flat(present)),
        )

    def _past(self, given: dict[str, Tensor]) -> KeysValues:
        """The parents' keys and values: [B*W, H, level, D]."""
        parents = given["parents"].long()
        users = torch.arange(parents.shape[0], device=parents.device)[:, None]
        parts = [given[name] for name in _names("past", self.num_layers)]
        return _pairs([part[users, parents].flatten(0, 1) for part in parts])

    def _encoded(self, given: dict[str, Tensor]) -> Encoded:
        keys_values = _pairs([given[name] for name in _names("memory", self.num_layers)])
        tables = None
        if "order" in given:
            names = _names("table", self.num_layers, "_")
            tables = _pairs([self.get_buffer(name) for name in names])
        memory = Memory(keys_values, given["mask"], tables)
        index = None
        if "order" in given:
            index = HistoryIndex(given["order"], given["bucket_offsets"])
        return Encoded(memory, index, given.get("tokens"), self._copied(given))

    def _copied(self, given: dict[str, Tensor]) -> Copied | None:
        if self.model.copy_head is None:
            return None
        none = given["mask"].new_zeros(0, dtype=torch.int64)
        if self.level == 0:
            return Copied(none, none, given["copied_first"], given["copied_events"])
        codes = given["tokens"] - self.model.level_start
        return Copied(codes, given["copied_share"], none, none)


def _names(kind: str, num_layers: int, separator: str = ".") -> list[str]:
    """Names of the keys and values of every layer."""
    parts = ("keys", "values")
    return [f"{kind}_{part}{separator}{i}" for i in range(num_layers) for part in parts]


def _memory_names(model: Glass) -> list[str]:
    """What the encoder leaves for the steps."""
    names = ["mask", *_names("memory", len(model.decoder.layers))]
    if model.hard_search is not None:
        names += ["order", "bucket_offsets", "tokens"]
    if model.copy_head is not None:
        names += ["copied_share", "copied_first", "copied_events"]
    return names


def _flat(pairs: KeysValues) -> list[Tensor]:
    return [part for pair in pairs for part in pair]


def _pairs(parts: list[Tensor]) -> KeysValues:
    return list(zip(parts[::2], parts[1::2], strict=True))
