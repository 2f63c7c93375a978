"""How items' own embeddings start."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from sequence_cases import DATASET, NUM_ITEMS, SIDS, sequence_model
from torch import Tensor

from glass.models.sequence import IntRR


def uids(**settings: object) -> Tensor:
    model = sequence_model("intrr_transformer", **settings)
    assert isinstance(model, IntRR)
    return model.uids.weight.detach().float()


def test_uids_start_as_sums_of_their_codes() -> None:
    """All but a hundredth of the variance is a linear function of the codes."""
    found = uids(uid_dim=400)
    assert float(found.std()) == pytest.approx(1.0, abs=0.1)
    columns = [torch.nn.functional.one_hot(torch.from_numpy(c).long()) for c in SIDS.codes.T]
    codes = torch.cat(columns, dim=1).float()
    fitted = codes @ torch.linalg.lstsq(codes, found, driver="gelsd").solution
    left = found - fitted
    assert float(left.var()) == pytest.approx(0.01, rel=0.7)
    assert float(left.norm(dim=1).min()) > 0  # and yet no two items are the same


def test_items_are_as_near_as_their_sids() -> None:
    found = uids(uid_dim=400)
    codes = torch.from_numpy(SIDS.codes)
    common = (codes[:, None] == codes).sum(-1)
    apart = torch.cdist(found, found)
    mean = [
        float(apart[common == n].mean()) for n in range(codes.shape[1] + 1) if (common == n).any()
    ]
    assert all(nearer < farther for farther, nearer in pairwise(mean))


def test_the_papers_start_knows_no_codes() -> None:
    found = uids(uid_dim=400, uid_start="random")
    codes = torch.from_numpy(SIDS.codes)
    alike = (codes[:, None, 0] == codes[:, 0]).fill_diagonal_(False)
    apart = torch.cdist(found, found)
    others = ~alike.fill_diagonal_(True)
    alike.fill_diagonal_(False)
    assert float(apart[alike].mean()) == pytest.approx(float(apart[others].mean()), rel=0.02)


def test_a_start_is_a_function_of_the_seed() -> None:
    assert torch.equal(uids(), uids())
    assert not torch.equal(uids(), uids(seed=1))
    assert len(uids()) == NUM_ITEMS == DATASET.num_items


def test_another_start_is_refused() -> None:
    with pytest.raises(ValueError, match="uid_start must be 'sid' or 'random', was 'zero'"):
        sequence_model("intrr_transformer", uid_start="zero")
