"""`glass_kernels.decoder_step` against the eager form of the same equations in `fused.py`."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from toy import SMALL, random_histories, toy_batch, toy_model, toy_sids

from glass.config import ModelConfig
from glass.generation import generate
from glass.models import Glass
from glass.models import fused as fused_module
from glass.models.decoder import Memory, Retrieval
from glass.models.fused import Fused, fused
from glass_kernels import SidTrie
from glass_kernels import decoder_step as package
from glass_kernels.decoder_step import decoder_step, pack_decoder_layer

pytestmark = pytest.mark.skipif(not package.AVAILABLE, reason="no compiled library")

ODD = dataclasses.replace(SMALL, d_model=20, num_heads=3, head_dim=12, d_ff=50)
WIDE = dataclasses.replace(SMALL, d_model=96, num_heads=6, head_dim=32, d_ff=300, short_length=50)
CONFIGS = {
    "odd": ODD,
    "released": WIDE,
    "state": dataclasses.replace(ODD, gate_input="state"),
    "fixed": dataclasses.replace(ODD, gate="fixed", fixed_gate=0.3),
    "gate of nothing": dataclasses.replace(ODD, empty_retrieval="gate", gate_input="state"),
    "fixed gate of nothing": dataclasses.replace(SMALL, empty_retrieval="gate", gate="fixed"),
    "one head": dataclasses.replace(SMALL, num_heads=1, head_dim=40, d_model=33, d_ff=300),
    "tiger": dataclasses.replace(ODD, use_sid_tier=False, use_hard_search=False),
    "no tier": dataclasses.replace(SMALL, use_sid_tier=False, tier_token_last=False),
}
HISTORIES = [*random_histories(3, (1, 90), seed=4), [], [7]]


def model_of(config: ModelConfig) -> Glass:
    model = toy_model(config).eval()
    for parameter in model.parameters():  # norms start at 1 and gates at 0: mix-ups would hide
        parameter.data *= 1 + 0.3 * torch.rand_like(parameter)
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@dataclasses.dataclass
class Step:
    """Arguments of `Fused.step` at one level."""

    trunk: Fused
    newest: Tensor | None
    memory: Memory
    retrieval: Retrieval | None
    past: list[Tensor]
    ancestors: Tensor

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.newest, self.memory, self.retrieval, self.past, self.ancestors

    def fast(self) -> tuple[Tensor, Tensor]:
        return self.trunk.step(*self.arguments)

    def eager(self, trunk: Fused | None = None) -> tuple[Tensor, Tensor]:
        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            patch.setattr(fused_module, "runs", lambda *tensors: False)
            return (trunk or self.trunk).step(*self.arguments)

    def exact(self, trunk: Fused) -> tuple[Tensor, Tensor]:
        """Of the same inputs in float64."""
        pairs = [(key.double(), value.double()) for key, value in self.memory.keys_values]
        tables = self.trunk.decoder[0][1].table and [cross.table for _, cross, _ in trunk.decoder]
        memory = Memory(pairs, self.memory.mask, tables)
        past = [each.double() for each in self.past]
        return dataclasses.replace(self, memory=memory, past=past).eager(trunk)


@torch.no_grad()
def steps_of(model: Glass, width: int, histories: list[list[int]] = HISTORIES) -> Iterator[Step]:
    """Every level of random beams; the step after reads what the eager form left."""
    torch.manual_seed(3)
    batch = toy_batch(histories, [[1]] * len(histories), model.config)
    trunk = fused(model)
    encoded = model._with_history(batch, trunk.memory(*model._inputs(batch)))
    ancestors = torch.zeros(len(batch), 1, 0, dtype=torch.int64)
    past: list[Tensor] = []
    newest, retrieval = None, None
    for size in model.codebook_sizes:
        step = Step(trunk, newest, encoded.memory, retrieval, list(past), ancestors)
        yield step
        past.append(step.eager()[1])
        parents = torch.randint(0, ancestors.shape[1], (len(batch), width))
        taken = ancestors.gather(1, parents[..., None].expand(-1, -1, len(past) - 1))
        ancestors = torch.cat((taken, parents[..., None]), dim=-1)
        newest = torch.randint(0, size, parents.shape)
        if len(past) == 1:
            retrieval = model.retrieve(encoded, newest)
        elif retrieval is not None:
            retrieval = retrieval.reorder(parents)


def worst(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> float:
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
    pairs = zip(found, wanted, strict=True)
    return max(float((one.double() - other).abs().max()) for one, other in pairs)


@pytest.mark.parametrize("width", [1, 3, 20])
@pytest.mark.parametrize("name", CONFIGS)
def test_values(name: str, width: int, poisoned: None) -> None:
    """As near to float64 as eager float32 is, up to twice its error."""
    model = model_of(CONFIGS[name])
    with torch.no_grad():
        trunk = fused(copy.deepcopy(model).double())
    assert trunk.packed is None
    ours = theirs = 0.0
    for step in steps_of(model, width):
        assert step.retrieval is None or bool((step.retrieval.lengths == 0).any())
        exact = step.exact(trunk)
        found = step.fast()
        torch.testing.assert_close(found, step.eager(), rtol=1e-4, atol=1e-5)
        ours, theirs = max(ours, worst(found, exact)), max(theirs, worst(step.eager(), exact))
    assert 0 < ours <= 2 * theirs


@pytest.mark.parametrize("name", ["odd", "tiger"])
@pytest.mark.parametrize("simd", ["base", "avx2", "avx512"])
def test_vector_widths(simd: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that were packed for one width are read by all."""
    monkeypatch.setenv("GLASS_CPU_SIMD", simd)
    for step in steps_of(model_of(CONFIGS[name]), 7):
        narrow = step.fast()
        torch.testing.assert_close(narrow, step.eager(), rtol=1e-4, atol=1e-5)
        monkeypatch.delenv("GLASS_CPU_SIMD")
        torch.testing.assert_close(step.fast(), narrow, rtol=1e-4, atol=1e-5)
        monkeypatch.setenv("GLASS_CPU_SIMD", simd)


@pytest.mark.parametrize("width", [3, 70])
def test_no_row_depends_on_another(width: int) -> None:
    """Bit for bit: alone, of other users, on more threads, in blocks of other sizes."""
    model = model_of(ODD)
    for step in steps_of(model, width):
        hidden, present = step.fast()
        torch.set_num_threads(2)
        try:
            again = step.fast()
        finally:
            torch.set_num_threads(1)
        assert torch.equal(again[0], hidden)
        assert torch.equal(again[1], present)
        for user in range(len(HISTORIES)):
            alone = _of_user(step, slice(user, user + 1)).fast()
            assert torch.equal(alone[0][0], hidden[user])
            assert torch.equal(alone[1][:, 0], present[:, user])


def test_padding_between_positions() -> None:
    *_, step = steps_of(model_of(CONFIGS["released"]), 3)
    mask = step.memory.mask
    assert mask is not None
    mask = mask & (torch.arange(mask.shape[-1]) % 3 != 1)
    for key, value in step.memory.keys_values:  # what is left out may hold anything
        key.masked_fill_(~mask.transpose(2, 3), float("nan"))
        value.masked_fill_(~mask.transpose(2, 3), float("nan"))
    found = dataclasses.replace(step, memory=dataclasses.replace(step.memory, mask=mask)).fast()
    for key, value in step.memory.keys_values:
        key.nan_to_num_(0)
        value.nan_to_num_(0)
    wanted = dataclasses.replace(step, memory=dataclasses.replace(step.memory, mask=mask)).eager()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_no_row_depends_on_one_that_is_not_finite() -> None:
    """Not even on what it leaves past the columns of a row, in a block after its own."""
    *_, step = steps_of(model_of(ODD), 48)
    arguments = call_of(step)
    hidden, _ = decoder_step(**arguments)
    arguments["x"][0] = float("inf")
    broken, _ = decoder_step(**arguments)
    assert bool(broken[0].isnan().all())
    assert torch.equal(broken[1:], hidden[1:])


def _of_user(step: Step, rows: slice) -> Step:
    memory, found = step.memory, step.retrieval
    return dataclasses.replace(
        step,
        newest=None if step.newest is None else step.newest[rows],
        memory=Memory(
            [(key[rows], value[rows]) for key, value in memory.keys_values],
            None if memory.mask is None else memory.mask[rows],
            memory.tables,
        ),
        retrieval=found
        and Retrieval(found.tokens, found.positions[rows].clone(), found.lengths[rows]),
        past=[each[:, rows].contiguous() for each in step.past],
        ancestors=step.ancestors[rows],
    )


def test_layouts_and_integers() -> None:
    *_, step = steps_of(model_of(ODD), 4)
    wanted = step.fast()
    assert step.retrieval is not None
    turned = [
        tuple(part.transpose(2, 3).contiguous().transpose(2, 3) for part in pair)
        for pair in step.memory.keys_values
    ]
    packed = [tuple(part.contiguous() for part in pair) for pair in step.memory.keys_values]
    for pairs in (turned, packed):
        memory = dataclasses.replace(step.memory, keys_values=pairs)
        found = dataclasses.replace(step, memory=memory).fast()
        assert all(map(torch.equal, found, wanted))
    for dtype in (torch.int32, torch.int64):
        retrieval = Retrieval(*(part.to(dtype) for part in vars(step.retrieval).values()))
        found = dataclasses.replace(step, retrieval=retrieval).fast()
        assert all(map(torch.equal, found, wanted))


def test_no_users() -> None:
    for step in steps_of(model_of(ODD), 4):
        hidden, present = _of_user(step, slice(0, 0)).fast()
        assert hidden.shape[0] == present.shape[1] == 0


@pytest.mark.parametrize(
    "config",
    [ODD, CONFIGS["tiger"], dataclasses.replace(ODD, copy_head=True)],
    ids=["glass", "tiger", "copy head"],
)
@pytest.mark.parametrize("constrained", [True, False])
def test_beams_are_those_of_the_eager_form(
    config: ModelConfig, constrained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(config)
    batch = toy_batch(HISTORIES, [[1]] * len(HISTORIES), config)
    trie = SidTrie.build(torch.from_numpy(toy_sids().codes), model.codebook_sizes)
    calls = []
    monkeypatch.setattr(
        fused_module, "decoder_step", lambda *a, **k: calls.append(1) or decoder_step(*a, **k)
    )
    found = generate(model, batch, trie, beam_width=9, constrained=constrained)
    assert len(calls) == model.num_levels
    monkeypatch.setattr(fused_module, "runs", lambda *tensors: False)
    wanted = generate(model, batch, trie, beam_width=9, constrained=constrained)
    assert len(calls) == model.num_levels
    assert torch.equal(found.codes, wanted.codes)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-5)


def call_of(step: Step) -> dict[str, Any]:
    """Arguments of `decoder_step`."""
    trunk, level = step.trunk, len(step.past)
    assert trunk.packed is not None
    keys, values = zip(*step.memory.keys_values, strict=True)
    return {
        "x": torch.randn(*step.ancestors.shape[:2], len(trunk.final)),
        "weights": trunk.packed,
        "scale": trunk.final,
        "bias": trunk.decoder_bias[level],
        "keys": list(keys),
        "values": list(values),
        "mask": step.memory.mask,
        "past": step.past,
        "ancestors": step.ancestors,
        **(vars(step.retrieval) if step.retrieval else {}),
    }


@pytest.fixture(scope="module")
def call() -> dict[str, Any]:
    *_, step = steps_of(model_of(ODD), 2)
    return call_of(step)


BAD = {
    "x": [
        (lambda t: t[0], "x must have 3 dimensions"),
        (lambda t: t.double(), "x must be float32"),
    ],
    "weights": [
        (lambda t: t[:-1], "weights must be 6, 8 or 11"),
        (lambda t: [*t[:-1], t[-1][:-1]], "weights must have size 20"),
        (lambda t: [t[1], *t[1:]], "weights must have size"),
    ],
    "scale": [(lambda t: t[:3], "scale must have size 20")],
    "bias": [(lambda t: t[:2], "bias must have size 3")],
    "keys": [
        (lambda t: t[:1], "keys and values must be of every layer"),
        (lambda t: [t[0], t[1][:, :, 1:]], "keys must have shape"),
        (lambda t: [t[0][:2], *t[1:]], "keys must have shape"),
    ],
    "values": [(lambda t: [t[0], t[1].double()], "values must be float32")],
    "mask": [
        (lambda t: t[..., 1:], "mask must have shape"),
        (lambda t: t.int(), "mask must be bool"),
    ],
    "past": [
        (lambda t: t[:1], "ancestors must have shape"),
        (lambda t: [t[0][:1], t[1]], "past must have size 2"),
    ],
    "ancestors": [
        (lambda t: None, "ancestors must be given"),
        (lambda t: t.int(), "ancestors must be int64"),
        (lambda t: t - 1, "ancestors must be in"),
        (lambda t: t + 5, "ancestors must be in"),
    ],
    "tokens": [
        (lambda t: None, "tokens and lengths must be given"),
        (lambda t: t + 100, r"tokens must be in \[0, 12\)"),
    ],
    "positions": [
        (lambda t: t[:, :1], "positions and lengths must be of 5 users and 2 sets"),
        (lambda t: t + 1000, "positions must be in"),
        (lambda t: t - 2, "positions must be in"),
    ],
    "lengths": [(lambda t: t + 100, "lengths must be in"), (lambda t: t.float(), "lengths must")],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, call: dict[str, Any]) -> None:
    decoder_step(**call)
    for change, message in BAD[name]:
        with pytest.raises(ValueError, match=message):
            decoder_step(**(call | {name: change(call[name])}))


def test_bad_weights() -> None:
    weights = [torch.zeros(2, 2)] * 6
    with pytest.raises(ValueError, match="tables must be given with found"):
        pack_decoder_layer(*weights, found=weights[0])
    with pytest.raises(ValueError, match="up must be float32"):
        pack_decoder_layer(*weights[:4], weights[0].double(), weights[0])


def test_operator(call: dict[str, Any]) -> None:
    arguments = (*call.values(), 0.5, False, True)
    torch.library.opcheck(torch.ops.glass.decoder_step, arguments)


def test_compiles_without_a_break(call: dict[str, Any]) -> None:
    compiled = torch.compile(decoder_step, backend="aot_eager", fullgraph=True)
    assert all(map(torch.equal, compiled(**call), decoder_step(**call)))


def test_gradients_are_refused(call: dict[str, Any]) -> None:
    x = call["x"].clone().requires_grad_()
    hidden, _ = decoder_step(**(call | {"x": x}))
    with pytest.raises(RuntimeError, match="has no gradient"):
        hidden.sum().backward()
