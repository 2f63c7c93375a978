"""Steps of beam search with every candidate listed, in float64; NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

Candidate = tuple[float, int, int, int]
"""(score, parent, code, node)"""


@dataclass(frozen=True)
class BeamCase:
    """Arguments of a step; without children (None) every code is one."""

    logits: np.ndarray  # float32 or float64 [B, W, K], exact in the dtype that is tested
    scores: np.ndarray  # [B, W]
    beam_width: int
    nodes: np.ndarray | None = None  # int64 [B, W]
    child_offsets: np.ndarray | None = None  # int32 [P + 1]
    child_codes: np.ndarray | None = None  # int32 [C]
    mask_before_softmax: bool = True
    filter_offsets: np.ndarray | None = None  # int64 [B + 1]
    filter_nodes: np.ndarray | None = None  # int32 [N]
    filter_keeps: bool = False

    @property
    def max_children(self) -> int:
        if self.child_offsets is None:
            return self.logits.shape[2]
        return int(np.diff(self.child_offsets).max(initial=0))

    def children(self, request: int, beam: int) -> np.ndarray:
        """Nodes below a beam."""
        if self.nodes is None or self.child_offsets is None:
            return np.arange(self.logits.shape[2])
        node = int(self.nodes[request, beam])
        if not 0 <= node < len(self.child_offsets) - 1:
            return np.arange(0)
        return np.arange(self.child_offsets[node], self.child_offsets[node + 1])

    def passes(self, request: int, node: int) -> bool:
        if self.filter_offsets is None or self.filter_nodes is None:
            return True
        begin, end = self.filter_offsets[request : request + 2]
        return (node in self.filter_nodes[begin:end]) == self.filter_keeps

    def candidates(self, request: int) -> list[Candidate]:
        """All that are above -inf, best first; of equal ones the lowest (parent, code) first."""
        found = []
        for beam, score in enumerate(self.scores[request].astype(np.float64)):
            children = self.children(request, beam)
            if np.isnan(score) or score == -np.inf or len(children) == 0:
                continue
            codes = children if self.child_codes is None else self.child_codes[children]
            row = self.logits[request, beam].astype(np.float64)
            row[row == np.inf] = np.finfo(self.logits.dtype).max
            row[np.isnan(row)] = -np.inf
            among = row[codes[codes >= 0]] if self.mask_before_softmax else row
            largest = among.max(initial=-np.inf)
            with np.errstate(all="ignore"):
                row = (row - largest) - np.log(np.exp(among - largest).sum()) + score
            for node, code in zip(children.tolist(), codes.tolist(), strict=True):
                total = score if code < 0 else row[code]
                if total > -np.inf and self.passes(request, node):
                    found.append((float(total), beam, code, node))
        return sorted(found, key=lambda c: (-c[0], *c[1:3]))

    def assert_found(
        self,
        scores: np.ndarray,
        nodes: np.ndarray | None,
        parents: np.ndarray,
        codes: np.ndarray,
        *,
        exact: bool = False,
    ) -> None:
        """`exact`: the candidates' order is that of `candidates`, else scores may round."""
        width = self.beam_width
        assert scores.shape == parents.shape == codes.shape == (len(self.logits), width)
        for request in range(len(self.logits)):
            wanted = self.candidates(request)
            count = min(width, len(wanted))
            best = np.array([c[0] for c in wanted[:count]])
            np.testing.assert_allclose(scores[request, :count], best, rtol=2e-6, atol=2e-6)
            assert (scores[request, count:] == -np.inf).all()
            found = list(zip(parents[request].tolist(), codes[request].tolist(), strict=True))
            assert found[count:] == [(0, -1)] * (width - count)
            known = {c[1:3]: c for c in wanted}
            assert len(set(found[:count])) == count
            for pair, score in zip(found[:count], scores[request], strict=False):
                np.testing.assert_allclose(score, known[pair][0], rtol=2e-6, atol=2e-6)
            keys = [(-score, *pair) for score, pair in zip(scores[request], found, strict=True)]
            assert keys[:count] == sorted(keys[:count])
            if exact:
                assert found[:count] == [c[1:3] for c in wanted[:count]]
            if nodes is not None:
                assert nodes[request, :count].tolist() == [known[p][3] for p in found[:count]]
                assert (nodes[request, count:] == -1).all()


def beam_case(
    requests: int,
    beams: int,
    codes: int,
    width: int,
    *,
    parents: int = 5,
    share: float = 0.5,
    ends: bool = False,
    filtered: bool | None = None,
    mask: bool = True,
    trie: bool = True,
    wild: bool = False,
    ties: bool = False,
    dtype: type[np.floating] = np.float32,
    seed: int = 0,
) -> BeamCase:
    """A random step. `share` of the codes follow a node; `filtered`: what it does with nodes.

    `wild` puts NaN and infinities in; `ties` makes many scores exactly equal.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(requests, beams, codes)).astype(dtype)
    scores = -rng.exponential(size=(requests, beams)).astype(dtype)
    if ties:
        logits[...] = 0
        scores = np.round(scores)
    if wild:
        logits[rng.random(logits.shape) < 0.1] = np.nan
        logits[rng.random(logits.shape) < 0.1] = -np.inf
        logits[rng.random(logits.shape) < 0.01] = np.inf
        logits[:, rng.random(beams) < 0.2] = -np.inf
        scores[rng.random(scores.shape) < 0.1] = np.nan
        scores[rng.random(scores.shape) < 0.1] = -np.inf
    case = BeamCase(logits, scores, width, mask_before_softmax=mask)
    if not trie:
        return case
    legal = rng.random((parents, codes)) < share
    rows = [np.flatnonzero(row) for row in legal]
    if ends:
        rows = [np.concatenate([[-1], r]) if rng.random() < 0.5 else r for r in rows]
        rows[0] = np.array([-1])
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
    nodes = rng.integers(-1, parents + 1, (requests, beams))  # dead: -1, and past the end
    case = replace(
        case, nodes=nodes, child_offsets=offsets, child_codes=np.concatenate(rows).astype(np.int32)
    )
    if filtered is None:
        return case
    listed = [np.flatnonzero(rng.random(offsets[-1]) < 0.4) for _ in range(requests)]
    bounds = np.concatenate([[0], np.cumsum([len(row) for row in listed])]).astype(np.int64)
    flat = np.concatenate([*listed, np.arange(0)]).astype(np.int32)
    return replace(case, filter_offsets=bounds, filter_nodes=flat, filter_keeps=filtered)
