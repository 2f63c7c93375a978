"""TIGER's weights in Hugging Face's T5, and its constrained beam search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain_generation import Found, Prefixes
from glass.data.batches import Batch
from glass.models import Glass
from glass_kernels.modules.projections import Projections


def available() -> bool:
    """The library comes with the extra `test`."""
    return find_spec("transformers") is not None


def weights(glass: Glass) -> Iterator[tuple[str, Tensor]]:
    """Names of T5's parameters and what they are in a TIGER; two more rows for BOS and padding."""
    table = torch.cat((glass.token_table, glass.bos[None], torch.zeros_like(glass.bos)[None]))
    for name in ("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
        yield f"{name}.weight", table
    for side, stack in (("encoder", glass.encoder), ("decoder", glass.decoder)):
        bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        yield f"{side}.{bias}", stack.position.weight
        yield f"{side}.final_layer_norm.weight", stack.norm.weight
        for number, layer in enumerate(stack.layers):
            parts: list[tuple[str, Any, Any]] = [
                ("SelfAttention", layer.attention_norm, layer.attention.proj)  # type: ignore[union-attr]
            ]
            if side == "decoder":
                parts.append(("EncDecAttention", layer.cross_norm, layer.short))
            parts.append(("DenseReluDense", layer.ff_norm, layer.ff))
            for place, (name, norm, block) in enumerate(parts):
                at = f"{side}.block.{number}.layer.{place}"
                yield f"{at}.layer_norm.weight", norm.weight
                if isinstance(block, Projections):
                    for letter, linear in zip(
                        "qkvo", (block.query, block.key, block.value, block.output), strict=True
                    ):
                        yield f"{at}.{name}.{letter}.weight", linear.weight
                else:
                    yield f"{at}.{name}.wi.weight", block.up.weight
                    yield f"{at}.{name}.wo.weight", block.down.weight


def make_t5(glass: Glass) -> Any:
    """T5 that computes what `glass`, a TIGER, does."""
    config, tokens = glass.config, sum(glass.codebook_sizes)
    library: Any = import_module("transformers")
    t5 = library.T5ForConditionalGeneration(
        library.T5Config(
            vocab_size=tokens + 2,
            d_model=config.d_model,
            d_kv=config.head_dim,
            d_ff=config.d_ff,
            num_heads=config.num_heads,
            num_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            feed_forward_proj="relu",
            decoder_start_token_id=tokens,
            pad_token_id=tokens + 1,
            eos_token_id=None,
            tie_word_embeddings=True,
        )
    )
    found = dict(weights(glass))
    missing, unknown = t5.load_state_dict(found, strict=False)
    assert not missing, missing
    assert not unknown, unknown
    return t5.eval()


def searching(glass: Glass, width: int, legal: Prefixes) -> Callable[[Batch], Found]:
    """T5's beam search with a `PrefixConstrainedLogitsProcessor` over the catalogue."""
    t5 = make_t5(glass)
    starts = glass.level_start.tolist()
    allowed = {
        tuple(code + start for code, start in zip(prefix, starts, strict=False)): (
            codes + starts[len(prefix)]
        ).tolist()
        for prefix, codes in legal.items()
        if len(prefix) < len(starts)
    }
    return partial(_search, t5, glass, width, lambda _, sent: allowed[tuple(sent[1:].tolist())])


def _search(t5: Any, glass: Glass, width: int, allowed: Any, batch: Batch) -> Found:
    levels = glass.num_levels
    out = t5.generate(
        input_ids=glass.item_tokens(batch.short_items).flatten(1),
        num_beams=width,
        num_return_sequences=width,
        min_new_tokens=levels,
        max_new_tokens=levels,
        do_sample=False,
        length_penalty=0.0,
        renormalize_logits=True,  # so that the mask comes before the softmax
        prefix_allowed_tokens_fn=allowed,
        return_dict_in_generate=True,
        output_scores=True,
    )
    codes = out.sequences[:, 1:] - glass.level_start
    users = len(batch)
    return Found(codes.view(users, width, levels), out.sequences_scores.view(users, width))
