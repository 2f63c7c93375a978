"""TIGER, the trunk with both modules off, is Hugging Face's T5 with the same weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from toy import NUM_ITEMS, SIZES, SMALL, random_histories, toy_batch, toy_model

from glass.config import ModelConfig
from glass.models import Glass
from glass.models.layers import RelativePositionBias
from glass_kernels.modules.projections import Projections

t5 = pytest.importorskip("transformers.models.t5.modeling_t5")

TIGER = dataclasses.replace(SMALL, use_sid_tier=False, use_hard_search=False, short_length=60)
LONG = random_histories(3, (60, 61))
RAGGED = [LONG[0], LONG[1][:7], [5]]


def _copy_attention(to: nn.Module, source: Projections) -> None:
    for name, part in zip("qkvo", ("query", "key", "value", "output"), strict=True):
        getattr(to, name).weight.data = getattr(source, part).weight.data


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> tuple[Glass, nn.Module]:
    """Our model and T5 with its weights, float64; T5's last token is our BOS."""

    def norm(self: nn.Module, x: Tensor) -> Tensor:  # T5's own takes the mean in float32
        return self.weight * x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()

    monkeypatch.setattr(t5.T5LayerNorm, "forward", norm)
    ours = toy_model(TIGER).double().eval()
    for parameter in ours.parameters():  # norms start at 1 and would hide a mix-up
        parameter.data *= 1 + 0.3 * torch.rand_like(parameter)
    config = t5.T5Config(
        vocab_size=sum(SIZES) + 1,
        d_model=TIGER.d_model,
        d_kv=TIGER.head_dim,
        d_ff=TIGER.d_ff,
        num_layers=TIGER.num_encoder_layers,
        num_decoder_layers=TIGER.num_decoder_layers,
        num_heads=TIGER.num_heads,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        dropout_rate=0.0,
        layer_norm_epsilon=1e-6,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
    )
    theirs = t5.T5ForConditionalGeneration(config).double().eval()
    theirs.shared.weight.data = torch.cat((ours.token_table.data, ours.bos.data[None]))
    theirs.tie_weights()
    for side, stack in ((ours.encoder, theirs.encoder), (ours.decoder, theirs.decoder)):
        first = stack.block[0].layer[0].SelfAttention
        first.relative_attention_bias.weight.data = side.position.weight.data
        stack.final_layer_norm.weight.data = side.norm.weight.data
        for layer, block in zip(side.layers, stack.block, strict=True):
            _copy_attention(block.layer[0].SelfAttention, layer.attention.proj)
            block.layer[0].layer_norm.weight.data = layer.attention_norm.weight.data
            if stack is theirs.decoder:
                _copy_attention(block.layer[1].EncDecAttention, layer.short)
                block.layer[1].layer_norm.weight.data = layer.cross_norm.weight.data
            block.layer[-1].DenseReluDense.wi.weight.data = layer.ff.up.weight.data
            block.layer[-1].DenseReluDense.wo.weight.data = layer.ff.down.weight.data
            block.layer[-1].layer_norm.weight.data = layer.ff_norm.weight.data
    assert theirs.lm_head.weight is theirs.shared.weight
    return ours, theirs


def _t5_inputs(model: Glass, histories: list[list[int]], targets: list[int]) -> dict[str, Tensor]:
    """Token ids padded on the right, their mask, and the decoder's BOS, sid_1, sid_2."""
    rows = [model.item_tokens(torch.tensor(history)).flatten() for history in histories]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    bos = torch.full((len(targets), 1), sum(SIZES))
    prefix = model.item_tokens(torch.tensor(targets))[:, :-1]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "decoder_input_ids": torch.cat((bos, prefix), dim=1),
    }


@pytest.mark.parametrize("pad_left", [False, True])
@pytest.mark.parametrize("histories", [LONG, RAGGED], ids=["unpadded", "padded"])
def test_encoder_decoder_and_logits_are_t5(
    pair: tuple[Glass, nn.Module], histories: list[list[int]], pad_left: bool
) -> None:
    ours, theirs = pair
    targets = [7, 0, 39]
    inputs = _t5_inputs(ours, histories, targets)
    expected = theirs(**inputs, output_hidden_states=True)
    batch = toy_batch(histories, [[t] for t in targets], TIGER, pad_left=pad_left)
    assert batch.padded == (histories is RAGGED)

    encoded_states: list[Tensor] = []
    hook = ours.encoder.register_forward_hook(lambda *call: encoded_states.append(call[2]))
    encoded = ours.encode(batch)
    hook.remove()
    valid = (batch.short_items >= 0).repeat_interleave(len(SIZES), dim=1)
    theirs_valid = inputs["attention_mask"].bool()
    torch.testing.assert_close(
        encoded_states[0][valid],
        expected.encoder_last_hidden_state[theirs_valid],
        rtol=0,
        atol=1e-10,
    )

    codes = ours.codes[torch.tensor(targets)].long()
    hidden, _ = ours.decode(encoded, codes[:, None, :-1], None)
    torch.testing.assert_close(hidden[:, 0], expected.decoder_hidden_states[-1], rtol=0, atol=1e-10)
    start = 0
    for level, size in enumerate(SIZES):
        logits = ours.level_logits(hidden[:, :, level], level, encoded, None, codes)[:, 0]
        torch.testing.assert_close(
            logits, expected.logits[:, level, start : start + size], rtol=0, atol=1e-10
        )
        start += size


def test_tiger_has_no_part_of_glass() -> None:
    model = toy_model(TIGER)
    names = [name for name, _ in model.named_parameters()]
    assert not [n for n in names if "tier" in n or "retrieved" in n or "fusion" in n]
    t5_names = [n for n, _ in model.named_parameters() if n not in ("bos", "token_table")]
    glass_names = [n for n, _ in toy_model(SMALL).named_parameters()]
    assert set(t5_names) < set(glass_names)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("length", [1, 40, 400])
def test_position_buckets_are_t5s(bidirectional: bool, length: int) -> None:
    ours = RelativePositionBias(1, bidirectional=bidirectional)
    found = ours.buckets(length, length, torch.device("cpu"))
    place = torch.arange(length)
    expected = t5.T5Attention._relative_position_bucket(
        place[None, :] - place[:, None], bidirectional=bidirectional
    )
    assert torch.equal(found, expected)


def test_paper_sizes_have_the_number_of_parameters_of_the_equations() -> None:
    """Section 4 of the paper's sizes: about 2.5 M without, 2.9 M with tier, search and gate."""

    def count(config: ModelConfig) -> int:
        model = Glass(config, (64, 128, 128), NUM_ITEMS, 6)
        return sum(parameter.numel() for parameter in model.parameters())

    attention, ff, norm, bias = 4 * 96 * 6 * 32, 2 * 96 * 1024, 96, 32 * 6
    encoder = 4 * (attention + ff + 2 * norm) + norm + bias
    decoder = 4 * (2 * attention + ff + 3 * norm) + norm + bias
    tiger = encoder + decoder + (64 + 128 + 128) * 96 + 96
    assert count(ModelConfig(use_sid_tier=False, use_hard_search=False)) == tiger == 2_490_912
    gates, tier = 4 * (2 * 96 * 96 + 96), (64 * 4 + 1) * 96 + (96 + 1) * 96
    assert count(ModelConfig()) == tiger + 4 * attention + gates + 96 * 96 + tier
