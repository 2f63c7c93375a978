"""Residual quantisation against brute force and against faiss."""

from __future__ import annotations

import faiss
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glass_kernels import use_backend
from glass_kernels.residual_quantize import reference, residual_quantize


def brute_force(x, codebooks, normalize_residual):
    """Codes by a loop over vectors, levels and centroids, in float64."""
    codes = []
    for residual in x.double():
        row = []
        for codebook in codebooks:
            if normalize_residual and float(residual.norm()) > 0:
                residual = residual / residual.norm()
            distances = [float(((residual - c) ** 2).sum()) for c in codebook.double()]
            row.append(distances.index(min(distances)))
            residual = residual - codebook[row[-1]].double()
        codes.append(row)
    return torch.tensor(codes, dtype=torch.int32).reshape(len(codes), len(codebooks))


def test_by_hand():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-2.0, 1.0]])
    codebooks = torch.tensor([[[2.0, 4.0], [-1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    # (3, 4) - (2, 4) = (1, 0); (0, 0) - (-1, 0) = (1, 0); (-2, 1) - (-1, 0) = (-1, 1).
    codes = residual_quantize(x, codebooks)
    assert codes.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert codes.dtype == torch.int32


def test_normalized_by_hand():
    # (0, 10) is (0, 1) at unit length, nearer to (0, 2) than to (0, 9); what is left is (0, -1).
    codebooks = torch.tensor([[[0.0, 9.0], [0.0, 2.0]], [[0.0, -1.0], [0.0, 1.0]]])
    x = torch.tensor([[0.0, 10.0]])
    assert residual_quantize(x, codebooks).tolist() == [[0, 1]]
    assert residual_quantize(x, codebooks, normalize_residual=True).tolist() == [[1, 0]]


def test_a_zero_residual_stays_zero():
    codebooks = torch.tensor([[[5.0], [1.0]], [[3.0], [0.5]], [[-1.0], [1.0]]])
    # 7 is scaled to 1; centroid 1 leaves 0, and 0.5 is then nearer than 3. -0.5 is scaled to -1.
    for start in (7.0, 0.0):
        codes = residual_quantize(torch.tensor([[start]]), codebooks, normalize_residual=True)
        assert codes.tolist() == [[1, 1, 0]]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**31),
    st.integers(0, 9),
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.integers(1, 5),
    st.booleans(),
)
def test_against_brute_force(seed, num_vectors, sizes, width, normalize_residual):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_vectors, width, generator=generator, dtype=torch.float64)
    codebooks = [torch.randn(k, width, generator=generator, dtype=torch.float64) for k in sizes]
    codes = residual_quantize(x, codebooks, normalize_residual=normalize_residual)
    assert torch.equal(codes, brute_force(x, codebooks, normalize_residual))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(1, 4))
def test_ties_go_to_the_lowest_index(seed, num_centroids, width):
    generator = torch.Generator().manual_seed(seed)
    # Small whole numbers: distances are exact in float32 and often equal.
    x = torch.randint(-2, 3, (20, width), generator=generator).float()
    codebooks = torch.randint(-2, 3, (3, num_centroids, width), generator=generator).float()
    assert torch.equal(residual_quantize(x, codebooks), brute_force(x, codebooks, False))


def test_repeated_centroids_are_never_chosen():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 37, generator=generator)
    codebook = torch.randn(1, 13, 37, generator=generator)
    codes = residual_quantize(x, codebook.repeat(1, 5, 1))
    assert int(codes.max()) < 13


@pytest.mark.parametrize("normalize_residual", [False, True])
def test_against_faiss(normalize_residual):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(500, 24, generator=generator)
    codebooks = (
        torch.randn(3, 32, 24, generator=generator) * torch.tensor([2.0, 1.0, 0.5])[:, None, None]
    )
    residual, expected = x, []
    for codebook in codebooks:
        if normalize_residual:
            residual = torch.nn.functional.normalize(residual, dim=1)
        index = faiss.IndexFlatL2(24)
        index.add(codebook.numpy())
        nearest = torch.from_numpy(index.search(residual.numpy(), 1)[1][:, 0])
        expected.append(nearest)
        residual = residual - codebook[nearest]
    codes = residual_quantize(x, codebooks, normalize_residual=normalize_residual)
    assert torch.equal(codes, torch.stack(expected, 1).int())


def test_blocks_do_not_show(monkeypatch):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(101, 7, generator=generator)
    codebooks = [torch.randn(k, 7, generator=generator) for k in (5, 9)]
    whole = residual_quantize(x, codebooks, backend="reference")
    for elements in (1, 9 * 7 * 10, 9 * 7 * 101):
        monkeypatch.setattr(reference, "BLOCK_ELEMENTS", elements)
        assert torch.equal(residual_quantize(x, codebooks, backend="reference"), whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(dtype):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(300, 64, generator=generator).to(dtype)
    codebooks = torch.randn(3, 16, 64, generator=generator).to(dtype)
    assert torch.equal(
        residual_quantize(x, codebooks), residual_quantize(x.float(), codebooks.float())
    )


def test_layouts_and_list():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(6, 50, generator=generator).t()
    codebooks = torch.randn(4, 3, 6, generator=generator).permute(1, 0, 2)
    codes = residual_quantize(x, codebooks)
    assert torch.equal(residual_quantize(x.contiguous(), codebooks.contiguous()), codes)
    assert torch.equal(residual_quantize(x, list(codebooks)), codes)
    assert torch.equal(residual_quantize(x, tuple(codebooks), backend="reference"), codes)


def test_no_vectors():
    codes = residual_quantize(torch.zeros(0, 4), torch.zeros(3, 2, 4))
    assert codes.shape == (0, 3)
    assert codes.dtype == torch.int32


def test_no_gradient():
    x = torch.randn(3, 4, requires_grad=True)
    assert not residual_quantize(x, torch.randn(2, 5, 4)).requires_grad


def test_compiles_as_one_graph():
    x, codebooks = torch.randn(9, 4), torch.randn(2, 5, 4)
    compiled = torch.compile(residual_quantize, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, codebooks), residual_quantize(x, codebooks))


@pytest.mark.parametrize(
    ("x", "codebooks", "message"),
    [
        (torch.zeros(3), torch.zeros(2, 5, 4), "x must have 2 dimensions"),
        (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(2, 5, 4), "x must be float32"),
        (torch.zeros(3, 4), torch.zeros(5, 4), "codebooks must have 3 dimensions"),
        (torch.zeros(3, 4), torch.zeros(0, 5, 4), "codebooks must have at least one level"),
        (torch.zeros(3, 4), [], "codebooks must have at least one level"),
        (torch.zeros(3, 4), {}, r"codebooks must be a tensor \[L, K, D\] or a list"),
        (torch.zeros(3, 4), torch.zeros(2, 0, 4), r"codebooks\[0\] must have at least one centr"),
        (torch.zeros(3, 4), torch.zeros(2, 5, 3), r"codebooks\[0\] must have shape \[any, 4\]"),
        (torch.zeros(3, 4), [torch.zeros(2, 4), torch.zeros(4)], r"codebooks\[1\] must have shape"),
        (torch.zeros(3, 4), torch.zeros(2, 5, 4).double(), r"codebooks\[0\] must be float32"),
        (torch.tensor([[0.0], [float("nan")]]), torch.zeros(1, 2, 1), "x must be finite.*row 1"),
        (torch.zeros(1, 1), torch.tensor([[[0.0], [float("inf")]]]), r"codebooks\[0\].*row 1"),
    ],
)
def test_refuses(x, codebooks, message):
    with pytest.raises(ValueError, match=message):
        residual_quantize(x, codebooks)


def test_unknown_and_missing_backends():
    with pytest.raises(ValueError, match="backend is 'fast'"):
        residual_quantize(torch.zeros(1, 1), torch.zeros(1, 1, 1), backend="fast")
    with use_backend("cuda"), pytest.raises(RuntimeError, match=r"residual_quantize.*'cuda'"):
        residual_quantize(torch.zeros(1, 1), torch.zeros(1, 1, 1))
