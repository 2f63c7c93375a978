from dataclasses import replace

import numpy as np
import pytest
import torch

from glass.config import VqVaeConfig
from glass.sid import codebook_training, vqvae
from glass.sid.assign import assign
from glass.sid.rkmeans import fit_residual_kmeans
from glass.sid.vqvae import VqVae, fit_vqvae, relative_error

SMALL = VqVaeConfig(epochs=40, batch_size=64, learning_rate=0.01)


def planted(num_items=240, dim=12, seed=0):
    """Four directions with four finer ones around each, at lengths that say nothing."""
    rng = np.random.default_rng(seed)
    coarse = np.linalg.qr(rng.normal(size=(dim, 4)))[0].T
    fine = 0.3 * np.linalg.qr(rng.normal(size=(dim, 4)))[0].T
    kind = rng.integers(0, 4, (num_items, 2))
    points = coarse[kind[:, 0]] + fine[kind[:, 1]] + 0.005 * rng.normal(size=(num_items, dim))
    return (rng.uniform(0.5, 2, (num_items, 1)) * points).astype(np.float32), kind


def same_partition(codes, kind):
    pairs = np.unique(np.column_stack([codes, kind]), axis=0)
    return len(pairs) == len(np.unique(codes)) == len(np.unique(kind))


def hand_model(commitment=0.25):
    model = VqVae(2, (2, 2), VqVaeConfig(commitment=commitment))
    with torch.no_grad():
        model.codebooks[0].copy_(torch.tensor([[1.0, 0.0], [0.0, 0.6]]))
        model.codebooks[1].copy_(torch.tensor([[1.0, 0.0], [0.0, 0.5]]))
    return model


def test_loss_by_hand():
    # (0, 5) has the direction (0, 1), nearest to (0, .6); what is left is (0, .4), of direction
    # (0, 1) again, nearest to (0, .5).
    loss, codes = hand_model()(torch.tensor([[0.0, 5.0]]))
    assert codes.tolist() == [[1, 1]]
    assert loss.item() == pytest.approx(1.25 * 0.4**2 + 1.25 * 0.5**2)


def test_gradients_by_hand():
    # x of unit length (.8, .6) takes (1, 0); what is left, (-.2, .6), has the length .632.
    x = torch.tensor([[0.8, 0.6]])
    unit = torch.tensor([-0.2, 0.6]) / 0.4**0.5
    for commitment in (0.0, 0.25):
        model = hand_model(commitment)
        loss, codes = model(x)
        loss.backward()
        assert codes.tolist() == [[0, 1]]
        own = 2 * torch.tensor([0.2, -0.6])
        # d |u - c|^2 / d r = 2 (I - u u') (u - c) / |r|, and the code is what r lacks.
        difference = unit - torch.tensor([0.0, 0.5])
        passed = 2 * (difference - unit * (unit @ difference)) / 0.4**0.5
        expected = own - commitment * passed
        assert torch.allclose(model.codebooks[0].grad[0], expected, atol=1e-6)
        assert torch.allclose(model.codebooks[1].grad[1], -2 * difference, atol=1e-6), (
            "the commitment does not move the code itself"
        )
        assert not model.codebooks[0].grad[1].any()


def test_an_exact_code_has_a_finite_gradient():
    model = hand_model()
    loss, _ = model(torch.tensor([[3.0, 0.0], [1.0, 1.0]]))
    loss.backward()
    for book in model.codebooks:
        assert book.grad.isfinite().all()
        assert book.grad.abs().max() < 10


def test_planted_directions_are_recovered():
    vectors, kind = planted()
    fitted = fit_vqvae(vectors, (4, 4), SMALL, progress=False)
    codes = assign(vectors, fitted.codebooks, normalize_residual=True)
    assert same_partition(codes[:, 0], kind[:, 0])
    assert len(np.unique(codes, axis=0)) == 16
    pairs = np.unique(np.column_stack([codes, kind]), axis=0)
    assert len(pairs) == 16
    assert fitted.relative_error[1] < 0.02


def test_error_is_that_of_residual_kmeans():
    """The same codebooks have the same error by either way of counting."""
    vectors, _ = planted()
    fitted = fit_residual_kmeans(vectors, (4, 8), normalize_residual=True)
    codes = assign(vectors, fitted.codebooks, normalize_residual=True)
    found = relative_error(vectors, fitted.codebooks, codes)
    assert found == pytest.approx(fitted.relative_error, rel=1e-4)


def test_training_lowers_the_error_of_a_poor_start():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(600, 8)).astype(np.float32)
    config = replace(SMALL, batch_size=32, epochs=15)  # the start sees 128 vectors of 600
    _, before = fit_vqvae(
        vectors, (16, 16), replace(config, learning_rate=0.0), progress=False
    ).relative_error
    _, after = fit_vqvae(vectors, (16, 16), config, progress=False).relative_error
    assert after < 0.95 * before


def test_dead_codes_restart(monkeypatch):
    vectors, _ = planted(80)

    def far_away(model, *_):
        with torch.no_grad():
            model.codebooks[0][1:] = 100.0

    def used():
        fitted = fit_vqvae(vectors, (8,), replace(SMALL, epochs=10), progress=False)
        return len(np.unique(assign(vectors, fitted.codebooks, normalize_residual=True)))

    monkeypatch.setattr(vqvae, "start_codebooks", far_away)
    assert used() >= 7
    monkeypatch.setattr(codebook_training, "restart_dead_codes", lambda *_: 0)
    assert used() == 1


def test_equal_seeds_are_equal_and_leave_the_global_seed_alone():
    vectors, _ = planted(80)
    config = replace(SMALL, epochs=3)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (
        fit_vqvae(vectors, (4, 4), config, seed=seed, progress=False) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.rand(3), expected)
    for one, same in zip(first.codebooks, again.codebooks, strict=True):
        assert np.array_equal(one, same)
    assert not np.array_equal(first.codebooks[1], other.codebooks[1])


def test_zero_vectors_take_part_in_nothing():
    vectors, _ = planted(80)
    config = replace(SMALL, epochs=3)
    alone = fit_vqvae(vectors, (4, 4), config, progress=False)
    among = fit_vqvae(
        np.vstack([np.zeros((9, 12), np.float32), vectors]), (4, 4), config, progress=False
    )
    for one, same in zip(alone.codebooks, among.codebooks, strict=True):
        assert np.array_equal(one, same)
    assert among.relative_error == pytest.approx(alone.relative_error)
    zeros = fit_vqvae(np.zeros((9, 12), np.float32), (4, 4), config, progress=False)
    assert all(np.isfinite(book).all() for book in zeros.codebooks)


def test_diverging_training_is_told():
    vectors, _ = planted(80)
    config = replace(SMALL, learning_rate=1e30, epochs=5)
    with pytest.raises(ValueError, match=r"VQ-VAE diverged in epoch .* lower sid\.vqvae\.learning"):
        fit_vqvae(vectors, (4, 4), config, progress=False)
