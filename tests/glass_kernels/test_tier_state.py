"""Serving state: equal to a recount whatever was added, removed, saved or rebuilt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glass_kernels import lengths_to_offsets, sid_tier_update_
from glass_kernels.modules import SidTier, TierHistogram, TierState, sid_prototypes, tier_edges

ITEMS, CODES, TIERS, DIM, USERS = 40, 7, 4, 5, 23


def tiers_of(limit: int = 1 << 20, seed: int = 0, items: int = ITEMS) -> TierHistogram:
    g = torch.Generator().manual_seed(seed)
    vectors = torch.randn(items, DIM, generator=g)
    sid1 = torch.randint(0, CODES, (items,), generator=g)
    tiers = TierHistogram(items, CODES, TIERS, DIM, table_limit=limit)
    tiers.rebuild(vectors, sid_prototypes(vectors, sid1, CODES), tier_edges("equal", TIERS))
    return tiers


def flat(histories: list[list[int]]) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([item for one in histories for item in one], dtype=torch.int64)
    return ids, lengths_to_offsets(torch.tensor([len(one) for one in histories]))


def check(state: TierState, histories: list[list[int]]) -> None:
    """Counts, lengths and fractions are those of the (windowed) histories."""
    held = [one[-state.window :] if state.window else one for one in histories]
    ids, offsets = flat(held)
    counts = state.tiers.histogram(ids, offsets, normalize=False)
    assert torch.equal(state.counts, counts.to(torch.int32))
    assert state.lengths.tolist() == [len(one) for one in held]
    assert torch.equal(state.features(), state.tiers.histogram(ids, offsets))


def random_events(count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Some users act much more than others."""
    users = (torch.rand(count, generator=g) ** 3 * USERS).long()
    return users, torch.randint(0, ITEMS, (count,), generator=g)


@pytest.mark.parametrize("limit", [1 << 20, 0], ids=["table", "vectors"])
@pytest.mark.parametrize("window", [1, 3, 50])
def test_sliding_window_equals_a_recount_after_100_000_events(window: int, limit: int) -> None:
    """Nearly every one of them also removes one."""
    g = torch.Generator().manual_seed(1)
    state = TierState(tiers_of(limit), USERS, window=window)
    histories: list[list[int]] = [[] for _ in range(USERS)]
    observed = 0
    while observed < 100_000:
        # from single events to more than the window of a user in one call
        size = int(torch.tensor([1, 2, 17, 400, 3000])[torch.randint(0, 5, (1,), generator=g)])
        users, items = random_events(size, g)
        state.observe(users.to(torch.int32) if size == 17 else users, items)
        for user, item in zip(users.tolist(), items.tolist(), strict=True):
            histories[user].append(item)
        observed += size
        if size == 3000:
            check(state, histories)
    check(state, histories)
    assert state.seen.sum() == observed


def test_adds_and_removes_of_the_caller_equal_a_recount_after_100_000() -> None:
    g = torch.Generator().manual_seed(2)
    state = TierState(tiers_of(), USERS)
    held_users, held_items = random_events(3000, g)
    state.observe(held_users, held_items)
    changes = len(held_users)
    while changes < 100_000:
        users, items = random_events(900, g)
        state.observe(users, items)
        # any of those held, not only the oldest
        gone = torch.randperm(len(held_users), generator=g)[:900]
        state.remove(held_users[gone], held_items[gone])
        kept = torch.ones(len(held_users), dtype=torch.bool)
        kept[gone] = False
        held_users = torch.cat((held_users[kept], users))
        held_items = torch.cat((held_items[kept], items))
        changes += 1800
    order = held_users.argsort(stable=True)
    lengths = torch.bincount(held_users, minlength=USERS)
    histories = [part.tolist() for part in held_items[order].split(lengths.tolist())]
    check(state, histories)
    state.remove(held_users, held_items)
    assert state.counts.eq(0).all()
    assert state.features().eq(0).all()


@pytest.mark.parametrize("window", [None, 4])
def test_from_histories(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from glass_kernels.modules import tier_state

    monkeypatch.setattr(tier_state, "_EVENTS_AT_ONCE", 5)
    histories = [[], [1, 2, 2, 39, 0, 7, 7], [5], [], [3] * 9]
    state = TierState.from_histories(tiers_of(), *flat(histories), window=window)
    check(state, histories)
    state.observe(torch.tensor([3, 1, 1]), torch.tensor([8, 9, 10]))
    histories[3] += [8]
    histories[1] += [9, 10]
    check(state, histories)
    state.grow(7)
    state.observe(torch.tensor([6]), torch.tensor([11]))
    check(state, [*histories, [], [11]])
    some = state.features(torch.tensor([6, 1]))
    assert torch.equal(some, state.features()[[6, 1]])


def test_token_of_the_state_is_the_token_of_the_history() -> None:
    tier = SidTier.from_embeddings(
        torch.randn(ITEMS, DIM), torch.arange(ITEMS) % CODES, CODES, TIERS, 8
    ).eval()
    ids, offsets = flat([[1, 2, 3], [], [4] * 5])
    tier.standardize(ids, offsets)
    state = TierState.from_histories(tier, ids, offsets)
    assert torch.equal(tier.token(state.features()), tier(ids, offsets))


@pytest.mark.parametrize("limit", [1 << 20, 0], ids=["table", "vectors"])
@pytest.mark.parametrize("window", [None, 3])
def test_saved_state_goes_on(window: int | None, limit: int, tmp_path: Path) -> None:
    histories = [[1, 2, 3, 4, 5], [], [6, 7]]
    state = TierState.from_histories(tiers_of(limit), *flat(histories), window=window)
    path = tmp_path / "state.safetensors"
    state.save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    loaded = TierState.load(path, tiers_of(limit))
    assert loaded.window == window
    for one in (state, loaded):
        one.observe(torch.tensor([2, 2, 0]), torch.tensor([0, 9, 9]))
    histories[2] += [0, 9]
    histories[0] += [9]
    check(loaded, histories)
    assert torch.equal(loaded.counts, state.counts)


def test_other_sids(tmp_path: Path) -> None:
    """What was counted with other tiers is never mixed with the new ones."""
    histories = [[1, 2, 3, 4, 5], [], [6, 7]]
    tiers, other = tiers_of(), tiers_of(seed=1)
    assert other.table is not None
    states = {w: TierState.from_histories(tiers, *flat(histories), window=w) for w in (None, 3)}
    for window, state in states.items():
        state.save(tmp_path / f"{window}.safetensors")
    check(TierState.load(tmp_path / "3.safetensors", other), histories)
    with pytest.raises(ValueError, match=r"None.safetensors was counted with other tiers .*from_h"):
        TierState.load(tmp_path / "None.safetensors", other)
    tiers.load_state_dict(other.state_dict())
    event = torch.tensor([0]), torch.tensor([1])
    for window, remedy in ((None, "from_histories"), (3, r"recount\(\)")):
        state, before = states[window], states[window].counts.clone()
        for call in (lambda s=state: s.observe(*event), state.features):
            with pytest.raises(ValueError, match=f"tiers changed since .*TierState.{remedy}"):
                call()
        assert torch.equal(state.counts, before)
    with pytest.raises(ValueError, match="tiers changed"):
        states[None].save(tmp_path / "x.safetensors")
    states[3].recount()
    check(states[3], histories)
    with pytest.raises(ValueError, match="window is None: no events are held"):
        states[None].recount()


@pytest.mark.parametrize("window", [None, 3])
def test_a_grown_catalogue_keeps_its_counts(window: int | None, tmp_path: Path) -> None:
    tiers, vectors = tiers_of(limit=0), tiers_of(limit=0).item_embeddings
    assert vectors is not None
    histories = [[1, 2, 3, 4, 5], [39]]
    state = TierState.from_histories(tiers, *flat(histories), window=window)
    state.save(tmp_path / "state")
    tiers.rebuild_table(torch.cat([vectors, torch.randn(3, DIM)]))
    loaded = TierState.load(tmp_path / "state", tiers)
    histories[1] += [42]
    for one in (state, loaded):
        one.observe(torch.tensor([1]), torch.tensor([42]))
        check(one, histories)


def damage(path: Path, change: str) -> None:
    tensors = load_file(path)
    if change == "bytes":
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    elif change == "foreign":
        save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("bytes", "its checksum does not match its content"),
        ("cut", "no state that this version can read"),
        ("foreign", "its format is 'pt', not 'glass_kernels.TierState'"),
    ],
)
def test_damaged_file(change: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    TierState.from_histories(tiers_of(), *flat([[1, 2]]), window=3).save(path)
    damage(path, change)
    with pytest.raises(ValueError, match=f"{message}.*TierState.from_histories"):
        TierState.load(path, tiers_of())


def test_state_of_items_that_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    TierState.from_histories(tiers_of(), *flat([[39]]), window=3).save(path)
    with pytest.raises(ValueError, match=r"events must be in \[-1, 30\)"):
        TierState.load(path, tiers_of(items=30))


@pytest.mark.parametrize("window", [None, 3])
def test_no_events(window: int | None) -> None:
    state = TierState(tiers_of(), 2, window=window)
    none = torch.zeros(0, dtype=torch.int64)
    state.observe(none, none)
    assert state.features().eq(0).all()
    assert TierState(tiers_of(), 0, window=window).features().shape == (0, CODES, TIERS)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        ([0, 2], [1, 1], r"users must be in \[0, 2\), held 2"),
        ([-1], [1], r"users must be in \[0, 2\), held -1"),
        ([0, 1], [1, ITEMS], r"item_ids must be in \[0, 40\), held 40"),
        ([0, 1], [1], r"item_ids must have shape \[2\]"),
        ([0.0], [1], "users must be int32 or int64"),
    ],
)
def test_mistakes_change_nothing(window: int | None, users, items, message: str) -> None:
    state = TierState.from_histories(tiers_of(), *flat([[1, 2, 3, 4], [5]]), window=window)
    before = {name: getattr(state, name).clone() for name in ("counts", "events", "seen")}
    with pytest.raises(ValueError, match=message):
        state.observe(torch.tensor(users), torch.tensor(items))
    with pytest.raises(ValueError, match=message if window is None else "by itself"):
        state.remove(torch.tensor(users), torch.tensor(items))
    for name, tensor in before.items():
        assert torch.equal(getattr(state, name), tensor)


def test_impossible_removal_changes_nothing() -> None:
    state = TierState.from_histories(tiers_of(), *flat([[1, 1], [2]]))
    counts, seen = state.counts.clone(), state.seen.clone()
    with pytest.raises(ValueError, match="would make a count negative"):
        state.remove(torch.tensor([0, 0, 0]), torch.tensor([1, 1, 1]))
    assert torch.equal(state.counts, counts)
    assert torch.equal(state.seen, seen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_users": -1}, "num_users must not be negative, was -1"),
        ({"window": 0}, r"window must be in \[1, 16777216\] or None, was 0"),
        ({"window": 1 << 25}, "window must be in"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TierState(tiers_of(), **{"num_users": 2, **settings})
    with pytest.raises(ValueError, match="num_users must be at least 2, was 1"):
        TierState(tiers_of(), 2).grow(1)


def test_rows_are_what_the_update_takes() -> None:
    small, large = tiers_of(), tiers_of(limit=0)
    users, items = torch.tensor([0, 1, 1, 0]), torch.tensor([4, 39, 4, 4])
    counts = []
    for tiers in (small, large):
        table, rows = tiers.rows(items)
        fresh = torch.zeros(2, CODES, TIERS, dtype=torch.int32)
        counts.append(sid_tier_update_(fresh, users, rows, table))
    assert torch.equal(*counts)
    with pytest.raises(ValueError, match=r"item_ids must be in \[0, 40\), held 40"):
        large.rows(torch.tensor([40]))
