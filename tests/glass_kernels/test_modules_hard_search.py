"""The hard search module: neighbours from prototypes, and the search through them."""

from __future__ import annotations

import math

import pytest
import torch

from glass_kernels.modules.hard_search import HardSearch, nearest_codes


def test_nearest_codes_by_hand() -> None:
    # Angles 0, 10, 90 and 180 degrees; lengths must not matter.
    angles = torch.tensor([0.0, 10.0, 90.0, 180.0]).deg2rad()
    prototypes = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[1], [9], [2], [5]])
    assert nearest_codes(prototypes, 3).tolist() == [[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]]
    assert nearest_codes(prototypes, 1).tolist() == [[1], [0], [1], [2]]
    assert nearest_codes(prototypes, 1).dtype == torch.int32


def test_nearest_codes_never_names_the_code_itself() -> None:
    prototypes = torch.ones(4, 3)
    neighbours = nearest_codes(prototypes, 5)
    assert neighbours.shape == (4, 5)
    for code, row in enumerate(neighbours.tolist()):
        assert sorted(row[:3]) == [other for other in range(4) if other != code]
        assert row[3:] == [-1, -1]


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_unusable_prototype_has_cosine_zero(bad: float) -> None:
    prototypes = torch.tensor([[1.0, 0.0], [bad, bad], [1.0, 0.1], [-1.0, 0.0]])
    neighbours = nearest_codes(prototypes, 3)
    assert neighbours.tolist() == [[2, 1, 3], [0, 2, 3], [0, 1, 3], [1, 2, 0]]


@pytest.mark.parametrize("num_neighbours", [0, 2])
def test_single_code_has_no_neighbour(num_neighbours: int) -> None:
    assert nearest_codes(torch.ones(1, 2), num_neighbours).tolist() == [[-1] * num_neighbours]


def test_codes_without_items_are_nobodys_neighbours() -> None:
    # Angles 0, 8, 20, 80 and 180 degrees; the codes at 8 and at 80 have no item.
    angles = torch.tensor([0.0, 8.0, 20.0, 80.0, 180.0]).deg2rad()
    prototypes = torch.stack([angles.cos(), angles.sin()], 1)
    occupied = torch.tensor([True, False, True, False, True])
    wanted = [[2, 4], [0, 2], [0, 4], [2, 0], [2, 0]]
    assert nearest_codes(prototypes, 2, occupied=occupied).tolist() == wanted
    four = nearest_codes(prototypes, 4, occupied=occupied)
    # fewer than four are left: two for a code that has items, three for one that has none
    assert four.tolist() == [
        [2, 4, -1, -1],
        [0, 2, 4, -1],
        [0, 4, -1, -1],
        [2, 0, 4, -1],
        [2, 0, -1, -1],
    ]
    everyone = nearest_codes(prototypes, 4, occupied=torch.ones(5, dtype=torch.bool))
    assert torch.equal(everyone, nearest_codes(prototypes, 4))


@pytest.mark.parametrize("only", [[], [1]])
def test_next_to_no_code_with_items(only: list[int]) -> None:
    occupied = torch.zeros(3, dtype=torch.bool)
    occupied[only] = True
    neighbours = nearest_codes(torch.ones(3, 2), 2, occupied=occupied)
    wanted = [[1, -1] if only and code != 1 else [-1, -1] for code in range(3)]
    assert neighbours.tolist() == wanted


@pytest.mark.parametrize("bad", [torch.ones(3, dtype=torch.bool), torch.ones(4)])
def test_bad_occupied(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="occupied must"):
        nearest_codes(torch.ones(4, 2), 2, occupied=bad)


def make(**changes: int) -> HardSearch:
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]])
    settings = {"num_codes": 3, "max_items": 4, "num_neighbours": 1, "min_items": 3, **changes}
    return HardSearch(**settings, prototypes=prototypes)


SID1 = torch.tensor([0, 2, 2, 1, 2])
OFFSETS = torch.tensor([0, 5])
QUERY = torch.tensor([[0, 1, -1]])


def test_search_fills_from_the_nearest_code() -> None:
    module = make()
    index = module.index(SID1, OFFSETS)
    positions, lengths = module.search(index, QUERY)
    # Code 0 is filled from code 2, code 1 from code 2 as well.
    assert positions.tolist() == [[[0, 4, 2, -1], [3, 4, 2, -1], [-1] * 4]]
    assert lengths.tolist() == [[3, 3, 0]]
    assert module(SID1, OFFSETS, QUERY)[0].tolist() == positions.tolist()


def test_search_skips_a_nearer_code_without_items() -> None:
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [1.0, 0.01]])
    occupied = torch.tensor([True, True, True, False])
    module = HardSearch(4, 4, 1, 3, prototypes=prototypes, occupied=occupied)
    assert module.neighbours.tolist() == [[2], [2], [0], [0]]
    assert module(SID1, OFFSETS, QUERY)[0][0, 0].tolist() == [0, 4, 2, -1]


@pytest.mark.parametrize("changes", [{"num_neighbours": 0}, {"min_items": 0}])
def test_augmentation_can_be_off(changes: dict[str, int]) -> None:
    positions, lengths = make(**changes)(SID1, OFFSETS, QUERY)
    assert positions[0, :, 0].tolist() == [0, 3, -1]
    assert lengths.tolist() == [[1, 1, 0]]


def test_state_dict_carries_the_neighbours() -> None:
    trained = make()
    loaded = HardSearch(3, 4, 1, 3)
    assert loaded.neighbours.tolist() == [[-1], [-1], [-1]]
    assert loaded(SID1, OFFSETS, QUERY)[1].tolist() == [[1, 1, 0]]
    loaded.load_state_dict(trained.state_dict())
    assert loaded.neighbours.tolist() == [[2], [2], [0]]
    assert loaded(SID1, OFFSETS, QUERY)[0].tolist() == trained(SID1, OFFSETS, QUERY)[0].tolist()


def test_captured_by_compile_without_graph_break() -> None:
    module = make()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for got, wanted in zip(
        compiled(SID1, OFFSETS, QUERY), module(SID1, OFFSETS, QUERY), strict=True
    ):
        assert got.tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_codes": 0}, "num_codes"),
        ({"max_items": 0}, "max_items"),
        ({"num_neighbours": -1}, "num_neighbours"),
        ({"min_items": -1}, "min_items"),
        ({"num_codes": 4}, "prototypes must have shape"),
    ],
)
def test_bad_settings(changes: dict[str, int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make(**changes)
