"""Operations of GLASS-style generative recommenders; usable alone with nothing but torch.

Every op takes `backend=None` (the best available) or a name of `glass_kernels.BACKENDS`.
`python -m glass_kernels.info` lists what this installation has.
"""

# `from glass_kernels import sid_tier` is the function: it hides the subpackage of that name, whose
# parts are reached by `from glass_kernels.sid_tier.reference import ...`
from glass_kernels.backend import BACKENDS, use_backend
from glass_kernels.codebook_assign import codebook_assign
from glass_kernels.encoder_stack import EncoderWeights, encoder_stack
from glass_kernels.gated_fusion import gated_fusion
from glass_kernels.hard_search import HistoryIndex, bucket_history, hard_search
from glass_kernels.hard_search_attention import hard_search_attention
from glass_kernels.jagged import lengths_to_offsets, offsets_to_segments, pad_to_jagged
from glass_kernels.residual_quantize import residual_quantize
from glass_kernels.sid_tier import (
    sid_tier,
    sid_tier_from_embeddings,
    sid_tier_update_,
    tier_table,
)
from glass_kernels.trie import SidTrie, TrieFilter, beam_step, trie_beam_step

__version__ = "0.1.0"

__all__ = [
    "BACKENDS",
    "EncoderWeights",
    "HistoryIndex",
    "SidTrie",
    "TrieFilter",
    "beam_step",
    "bucket_history",
    "codebook_assign",
    "encoder_stack",
    "gated_fusion",
    "hard_search",
    "hard_search_attention",
    "lengths_to_offsets",
    "offsets_to_segments",
    "pad_to_jagged",
    "residual_quantize",
    "sid_tier",
    "sid_tier_from_embeddings",
    "sid_tier_update_",
    "tier_table",
    "trie_beam_step",
    "use_backend",
]
