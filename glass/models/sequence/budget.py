"""Parameters of the sequence models, and how the baseline is given as many as IntRR."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from glass.config import SequenceConfig

if TYPE_CHECKING:
    from glass.models.sequence.base import BackboneName, SequenceModel

_TABLES = ("uids.", "network.codebooks.", "token_table", "heads.")


@dataclass(frozen=True)
class ParameterCounts:
    """Trained numbers of a model."""

    trunk: int
    """All that computes: backbone, f_l, the map of the items' embeddings."""
    tables: int
    """A row an item or code: UIDs, codebooks, tokens, heads."""


def parameter_counts(model: SequenceModel) -> ParameterCounts:
    """Parameters of `model`."""
    tables = trunk = 0
    for name, parameter in model.named_parameters():
        if name.startswith(_TABLES):
            tables += parameter.numel()
        else:
            trunk += parameter.numel()
    return ParameterCounts(trunk, tables)


def matched(
    config: SequenceConfig,
    codebook_sizes: tuple[int, ...],
    backbone: BackboneName,
    content_dim: int,
) -> SequenceConfig:
    """With `match_parameters`, a trunk that is wider by what IntRR's has beside the backbone.

    The Transformer's feed-forward layers grow, HSTU's heads; by a width that processors like.
    """
    if not config.match_parameters:
        return config
    d, hidden = config.d_model, config.hidden_dim or 2 * config.d_model
    beside = (config.uid_dim + content_dim + 1) * d
    beside += (len(codebook_sizes) - 1) * (2 * d * hidden + hidden + hidden * d + d)
    if backbone == "transformer":
        more = 8 * round(beside / (config.num_layers * 2 * d) / 8)
        return replace(config, d_ff=config.d_ff + more, match_parameters=False)
    more = 4 * round(beside / (config.num_layers * 5 * d * config.num_heads) / 4)
    return replace(config, head_dim=config.head_dim + more, match_parameters=False)
