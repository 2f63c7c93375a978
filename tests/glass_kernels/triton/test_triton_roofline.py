"""docs/gpu_roofline.csv and its page are what `benchmarks.gpu_roofline` predicts, and its formulas
are right."""

from __future__ import annotations

import csv

import pytest
import torch

from benchmarks import (
    codebook_assign,
    gated_fusion,
    gpu_roofline,
    gpu_traffic,
    gpu_work,
    hard_search,
    hard_search_attention,
    residual_quantize,
    sid_tier,
    sid_tier_embeddings,
)
from benchmarks.gpu_work import Work
from glass_kernels import codebook_assign as assign

COUNTED = {
    **{
        f"sid_tier: histories paper, B 4, K 128, N {tiers}, items 13000": gpu_work.of_sid_tier(
            sid_tier.Setup(users=4, tiers=tiers)
        )
        for tiers in (4, 20)
    },
    "sid_tier_from_embeddings: ": gpu_work.of_embeddings(
        sid_tier_embeddings.Setup(20, users=4), "fp32"
    ),
    "hard_search: ": gpu_work.of_search(hard_search.Setup(users=4)),
    **{
        f"hard_search_attention: pass {name},": gpu_work.of_attention(
            hard_search_attention.Setup(4, max_items=30, backward=backward), "fp32"
        )
        for name, backward in (("forward", False), ("both", True))
    },
    **{
        f"gated_fusion: pass {name},": gpu_work.of_fusion(
            gated_fusion.Setup(backward, rows=2_048, absent=0.0), "fp32"
        )
        for name, backward in (("forward", False), ("both", True))
    },
    "residual_quantize: ": gpu_work.of_quantize(residual_quantize.Setup(2_048, dim=64)),
}
"""By how its job begins in docs/gpu_traffic.csv."""


def work_of(**numbers: float) -> Work:
    return Work(**({"call": "", "dtype": "fp32", "num_bytes": 0, "launches": 1} | numbers))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("work", "card", "binds", "microseconds"),
    [
        (work_of(num_bytes=2_000_000, plain_bytes=39_000), "A100", "memory", 1.0),
        (work_of(num_bytes=3_350_000), "H100", "memory", 1.0),
        (work_of(flops=39e6, num_bytes=2_039_000), "A100", "products", 2.0),
        (work_of(flops=67e6), "H100", "products", 1.0),
        (work_of(flops=312e6, dtype="bf16"), "A100", "products", 1.0),
        (work_of(flops=989e6, dtype="bf16"), "H100", "products", 1.0),
        # 137 / 16 instructions a pair, 108 x 128 at 1.41 GHz
        (work_of(pairs=108 * 128 * 16 * 141, tiers=4), "A100", "instructions", 13.7),
        (work_of(pairs=132 * 128 * 16 * 198, tiers=20), "H100", "instructions", 16.0),
    ],
)
def test_predictions_by_hand(work: Work, card: str, binds: str, microseconds: float) -> None:
    found = gpu_roofline.predict(work, card)
    assert found.binds == binds
    assert found.least_us == pytest.approx(microseconds)
    assert found.launch_us == gpu_roofline.LAUNCH_US


@pytest.mark.parametrize("job", COUNTED)
def test_formulas_are_what_was_counted(job: str) -> None:
    """The fixed parts of small inputs, and what is rounded up to sectors, are left out at most."""
    (row,) = (
        r for r in gpu_traffic.read_table() if r["job"].startswith(job) and r["kernel"] == "all"
    )
    work = COUNTED[job]
    counted, flops = int(row["distinct"]), int(row["flops"])
    assert 0.95 * counted <= work.num_bytes <= counted
    assert 0.9 * flops <= work.flops <= flops


@pytest.mark.skipif(torch.cuda.is_available(), reason="counted in the interpreter alone")
@pytest.mark.parametrize("backward", [False, True])
def test_formula_of_codebook_assign(backward: bool) -> None:
    """In bfloat16, for which docs/gpu_traffic.csv has nothing."""
    rows, codes, width = 256, 64, 64
    query = torch.randn(rows, width, dtype=torch.bfloat16, requires_grad=backward)
    codebook = torch.randn(codes, width, dtype=torch.bfloat16, requires_grad=backward)
    target = torch.randint(codes, (rows,))
    with gpu_traffic.counting() as traffic:
        assigned, _, loss = assign(query, codebook, target, backend="triton")
        if backward:
            assert loss is not None
            ((assigned * assigned.detach()).sum() + loss.sum()).backward()  # type: ignore[no-untyped-call]
    setup = codebook_assign.Setup(backward, rows, width, codes)
    work = gpu_work.of_assign(setup, "bf16")
    kernels = traffic.kernels.values()
    counted = sum(kernel.distinct for kernel in kernels)
    assert 0.95 * counted <= work.num_bytes <= counted
    assert work.flops == sum(kernel.flops for kernel in kernels)
    assert work.launches == sum(kernel.launches for kernel in kernels)


def test_table_and_page_are_what_is_predicted() -> None:
    found = gpu_roofline.predictions()
    with gpu_roofline.TABLE.open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == gpu_roofline.csv_rows(found)
    assert gpu_roofline.page_table(found) in gpu_roofline.PAGE.read_text(encoding="utf-8")
