"""Properties that hold between Triton and every other backend of this machine."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tier_cases import broken_offsets, histories, tables, vectors

from glass_kernels import sid_tier, sid_tier_from_embeddings
from glass_kernels.backend import runs_on
from glass_kernels.sid_tier import _FROM_EMBEDDINGS, _SID_TIER

# the rare rows overflow before they are scaled; NumPy, which interprets, says so
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
EXAMPLES = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SMALL = (1, 7, 16, 33)


@EXAMPLES
@given(data=st.data())
def test_table_path(device: torch.device, data: st.DataObject) -> None:
    history = data.draw(histories(longest=65))
    table, num_tiers = data.draw(tables(history.num_items, SMALL, (1, 3, 4, 20)))
    problem = history.ids.to(device), history.offsets.to(device), table.to(device), num_tiers
    for normalize in (True, False):
        ours = sid_tier(*problem, normalize=normalize, backend="triton")
        for name in _SID_TIER:
            if runs_on(name, device):
                other = sid_tier(*problem, normalize=normalize, backend=name)
                assert torch.equal(other, ours), name


@EXAMPLES
@given(data=st.data())
def test_embeddings_path(device: torch.device, data: st.DataObject) -> None:
    """No cosine within rounding of an edge: the products are float32 here and float64 there."""
    history = data.draw(histories(longest=33))
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    v = data.draw(vectors(history.num_items, kinds=("between",), dtypes=dtypes, widths=SMALL))
    parts = history.ids, history.offsets, v.items, v.prototypes, v.edges
    problem = [part.to(device) for part in parts]
    for normalize in (True, False):
        ours = sid_tier_from_embeddings(*problem, normalize=normalize, backend="triton")
        for name in _FROM_EMBEDDINGS:
            if runs_on(name, device):
                other = sid_tier_from_embeddings(*problem, normalize=normalize, backend=name)
                assert torch.equal(other, ours), name


@EXAMPLES
@given(data=st.data())
def test_mistakes_are_refused_by_name(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    monkeypatch.setenv("GLASS_CHECK", "1")  # on a card values are looked at on request
    history = data.draw(histories().filter(lambda h: len(h.ids) > 0 and len(h.offsets) > 2))
    ids, offsets = history.ids.to(device), history.offsets.to(device)
    table = torch.zeros(history.num_items, 3, dtype=torch.uint8, device=device)
    items, prototypes = (torch.ones(n, 2, device=device) for n in (history.num_items, 3))
    kind = data.draw(st.sampled_from(["start", "end", "falls", "negative", "dtype"]))
    wrong = ids.clone()
    wrong[data.draw(st.integers(0, len(ids) - 1))] = history.num_items
    for given_ids, given_offsets, message in (
        (wrong, offsets, "item_ids must be in"),
        (ids, broken_offsets(offsets, kind), "offsets must"),
    ):
        with pytest.raises(ValueError, match=message):
            sid_tier(given_ids, given_offsets, table, 2, backend="triton")
        with pytest.raises(ValueError, match=message):
            sid_tier_from_embeddings(
                given_ids, given_offsets, items, prototypes, [-1, 0, 1], backend="triton"
            )
