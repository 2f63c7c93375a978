"""Generation with the sequence models against scoring every SID of the catalogue by itself."""

from __future__ import annotations

import math

import pytest
import torch
from sequence_cases import ITEMS, KINDS, SIDS, histories_batch, sequence_model

from glass.data.sequences import SequenceBatch
from glass.generation import generate
from glass.models.sequence import Flattened, IntRR, SequenceModel
from glass_kernels import SidTrie

TRIE = SidTrie.build(torch.from_numpy(SIDS.codes), SIDS.codebook_sizes)
CATALOGUE = sorted({tuple(codes) for codes in SIDS.codes.tolist()})
HISTORIES = [ITEMS[:3], [ITEMS[4]], [], [*ITEMS[2:6], ITEMS[2]]]


def code_logits(model: SequenceModel, batch: SequenceBatch, sid: tuple[int, ...]) -> list[list]:
    """Logits of each level given the codes of `sid` before it: a whole pass without any cache."""
    steps = model.steps(batch)
    logits = [steps.first()[:, 0]]
    if isinstance(model, IntRR):
        guidance = model.read(batch)[0]
        for level in range(1, len(sid)):
            before = torch.tensor(sid).expand(len(batch), -1)
            seen = model.network.codes_before(level, before)
            logits.append(model.network.level_logits(level, guidance, seen))
        return logits
    assert isinstance(model, Flattened)
    # The item of this SID ends each history, so that its codes are tokens like any others.
    item = SIDS.codes.tolist().index(list(sid))
    for level in range(1, len(sid)):
        rows = []
        for user in range(len(batch)):
            mine = slice(int(batch.offsets[user]), int(batch.offsets[user + 1]))
            items = torch.cat((batch.items[mine], torch.tensor([item])))
            newest = batch.times[mine][-1:] if len(items) > 1 else torch.zeros(1).long()
            times = torch.cat((batch.times[mine], newest))
            offsets = torch.tensor([0, len(items)])
            states, _ = model.read(items, offsets, len(items), times)
            rows.append(states[(len(items) - 1) * len(sid) + level - 1])
        logits.append(model.logits(level, torch.stack(rows)))
    return logits


def log_probability(
    model: SequenceModel, batch: SequenceBatch, sid: tuple[int, ...]
) -> list[float]:
    """Of one SID for every user, shared out among legal codes at each level."""
    total = torch.zeros(len(batch)).double()
    for level, logits in enumerate(code_logits(model, batch, sid)):
        legal = sorted({other[level] for other in CATALOGUE if other[:level] == sid[:level]})
        total += logits[:, legal].log_softmax(-1)[:, legal.index(sid[level])]
    return total.tolist()


@pytest.mark.parametrize(
    ("system", "hstu", "settings"),
    [*((*kind, {}) for kind in KINDS), ("intrr_hstu", "canonical", {"context": "sum"})],
)
@pytest.mark.usefixtures("poisoned")
@torch.no_grad()
def test_a_wide_beam_is_exhaustive_search(system: str, hstu: str, settings: dict[str, str]) -> None:
    model = sequence_model(system, hstu, **settings)
    batch = histories_batch(HISTORIES)
    beams = generate(model, batch, TRIE, beam_width=len(CATALOGUE))
    scores = {sid: log_probability(model, batch, sid) for sid in CATALOGUE}
    for user in range(len(HISTORIES)):
        found = {
            tuple(codes): score
            for codes, score in zip(
                beams.codes[user].tolist(), beams.scores[user].tolist(), strict=True
            )
            if score > -math.inf
        }
        assert found == pytest.approx({sid: scores[sid][user] for sid in CATALOGUE}, abs=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.parametrize(("system", "hstu"), KINDS)
def test_users_do_not_depend_on_each_other(system: str, hstu: str) -> None:
    """More than are searched at once, in another order, and each alone."""
    model = sequence_model(system, hstu)
    histories = [HISTORIES[i % 4][: 1 + i % 3] for i in range(40)]
    times = [[7 * (40 - i) + j**3 for j in range(len(h))] for i, h in enumerate(histories)]
    together = generate(model, histories_batch(histories, times), TRIE, beam_width=4)
    for user in (0, 1, 2, 3, 38):
        alone = generate(
            model, histories_batch([histories[user]], [times[user]]), TRIE, beam_width=4
        )
        assert torch.equal(alone.codes[0], together.codes[user])
        torch.testing.assert_close(alone.scores[0], together.scores[user])


@pytest.mark.parametrize(("system", "hstu"), KINDS)
def test_nobody_and_empty_histories(system: str, hstu: str) -> None:
    model = sequence_model(system, hstu)
    assert tuple(generate(model, histories_batch([]), TRIE, beam_width=4).codes.shape) == (0, 4, 3)
    empty = generate(model, histories_batch([[], []]), TRIE, beam_width=4)
    mixed = generate(model, histories_batch([[], ITEMS[:4]]), TRIE, beam_width=4)
    assert empty.scores.isfinite().all()
    assert torch.equal(empty.codes[0], mixed.codes[0])


@pytest.mark.parametrize("system", ["intrr_transformer", "flattened_hstu"])
def test_options_of_the_search_work(system: str) -> None:
    model = sequence_model(system)
    batch = histories_batch(HISTORIES)
    free = generate(model, batch, TRIE, beam_width=6, constrained=False)
    assert free.scores.isfinite().all()
    diverse = generate(model, batch, TRIE, beam_width=6, max_per_sid1=1)
    for user in range(len(HISTORIES)):
        first = diverse.codes[user, :, 0]
        kept = first[first >= 0].tolist()
        assert len(set(kept)) == len(kept)
