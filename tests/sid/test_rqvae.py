from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from glass.config import RqVaeConfig
from glass.sid.assign import assign
from glass.sid.codebook_training import restart_dead_codes
from glass.sid.rqvae import RqVae, balanced_assignment, fit_rqvae

SMALL = RqVaeConfig(
    hidden_sizes=(16,), code_dim=4, sinkhorn_iterations=10, epochs=40, batch_size=64
)


def blobs(num_items=256, dim=10):
    rng = np.random.default_rng(0)
    coarse = 3 * rng.normal(size=(4, dim))
    fine = rng.normal(size=(4, dim))
    kind = rng.integers(0, 4, (num_items, 2))
    noise = 0.05 * rng.normal(size=(num_items, dim))
    return (coarse[kind[:, 0]] + fine[kind[:, 1]] + noise).astype(np.float32)


def test_default_shape_is_that_of_the_paper():
    model = RqVae(128, (64, 128, 128), RqVaeConfig())
    widths = [layer.weight.shape[1] for layer in model.encoder if hasattr(layer, "weight")]
    assert widths == [128, 512, 256, 128, 64]
    mirrored = [layer.weight.shape[1] for layer in model.decoder if hasattr(layer, "weight")]
    assert mirrored == [32, 64, 128, 256, 512]
    assert [tuple(book.shape) for book in model.codebooks] == [(64, 32), (128, 32), (128, 32)]
    assert model.decode(torch.zeros(2, 32)).shape == (2, 128)


def hand_model(codebooks, epsilon=0.0):
    """Identity encoder and decoder, so that the quantiser stands alone."""
    config = replace(
        SMALL, hidden_sizes=(), code_dim=1, sinkhorn_epsilon=epsilon, sinkhorn_iterations=500
    )
    model = RqVae(1, [len(book) for book in codebooks], config)
    with torch.no_grad():
        for layer in (model.encoder[0], model.decoder[0]):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
        for parameter, values in zip(model.codebooks, codebooks, strict=True):
            parameter.copy_(torch.tensor(values)[:, None])
    return model


def test_quantize_and_loss_by_hand():
    model = hand_model([[0.0, 10.0], [1.0, -2.0]])
    x = torch.tensor([[9.0], [1.5]])
    quantized, codes, loss, residual = model.quantize(x)
    # 9 -> 10 leaves -1, nearer to -2 (1 away) than to 1 (2 away); 1.5 -> 0 leaves 1.5 -> 1.
    assert codes.tolist() == [[1, 1], [0, 0]]
    assert quantized.ravel().tolist() == [8.0, 1.0]
    assert residual.ravel().tolist() == [1.0, 0.5]
    levels = (1 + 2.25) / 2 + (1 + 0.25) / 2
    assert loss.item() == pytest.approx(1.25 * levels)
    total, _ = model(x)
    assert total.item() == pytest.approx(1.25 * levels + (1 + 0.25) / 2)


def test_gradients_are_straight_through():
    model = hand_model([[0.0, 10.0]])
    x = torch.tensor([[9.0]])
    model(x)[0].backward()
    # Decoder sees 10 for 9: d(10 - 9)^2 = 2, passed to the encoder unchanged; the commitment adds
    # 0.25 * 2 * (9 - 10). The code itself feels only its own term, 2 * (10 - 9), not the decoder.
    assert model.encoder[0].bias.grad.item() == pytest.approx(2 - 0.5)
    assert model.codebooks[0].grad.ravel().tolist() == pytest.approx([0.0, 2.0])


def test_balanced_assignment_uses_all_codes_equally():
    torch.manual_seed(0)
    points, codes = torch.randn(256, 3), torch.randn(8, 3) + 2
    distance = torch.cdist(points, codes).square()
    greedy = torch.bincount(distance.argmin(-1), minlength=8)
    balanced = torch.bincount(balanced_assignment(distance, 0.003, 500), minlength=8)
    assert greedy.max() > 200
    assert balanced.max() <= 35
    assert balanced.min() >= 29


def test_balanced_assignment_equals_the_plan_by_definition():
    torch.manual_seed(0)
    distance = torch.rand(6, 3, dtype=torch.float64)
    distance[0, 0], distance[0, 1] = 0, 1  # a range of 1, so that the scaled cost is 2 * distance
    log_plan = -2 * distance / 0.1
    for _ in range(30):
        log_plan = log_plan - log_plan.logsumexp(1, keepdim=True)
        log_plan = log_plan - log_plan.logsumexp(0, keepdim=True)
    assert torch.equal(balanced_assignment(distance, 0.1, 30), log_plan.argmax(-1))


@pytest.mark.parametrize("epsilon", [1e-6, 1e-3, 10.0])
def test_balanced_assignment_survives_extreme_weights(epsilon):
    distance = torch.cat([torch.zeros(50, 4), torch.full((50, 4), 1e8)])
    codes = balanced_assignment(distance, epsilon, 20)
    assert codes.min() >= 0
    assert codes.max() < 4


def test_only_the_last_level_is_balanced_and_only_in_training():
    model = hand_model([[0.0, 10.0], [0.0, 1.0]], epsilon=0.003)
    x = torch.zeros(8, 1)
    assert model.train()(x)[1][:, 0].tolist() == [0] * 8
    x = torch.linspace(-0.2, 0.2, 8)[:, None]
    assert sorted(model(x)[1][:, 1].tolist()) == [0] * 4 + [1] * 4
    assert model.eval()(x)[1].tolist() == [[0, 0]] * 8


def test_training_lowers_the_error_and_uses_the_codes():
    vectors = blobs()
    model, fitted = fit_rqvae(vectors, (4, 8), replace(SMALL, epochs=100), progress=False)
    _, untrained = fit_rqvae(vectors, (4, 8), replace(SMALL, epochs=1), progress=False)
    assert fitted.relative_error[1] < 0.2 < untrained.relative_error[1]
    codes = assign(model.encode(torch.from_numpy(vectors)).detach().numpy(), fitted.codebooks)
    assert len(np.unique(codes[:, 0])) == 4
    # The reported error is that of the codes that items get.
    quantized = sum(fitted.codebooks[level][codes[:, level]] for level in range(2))
    decoded = model.decode(torch.from_numpy(quantized)).detach().numpy()
    error = ((decoded - vectors) ** 2).sum() / (vectors**2).sum()
    assert fitted.relative_error[1] == pytest.approx(error, rel=1e-3)


def test_equal_seeds_are_equal_and_leave_the_global_seed_alone():
    vectors = blobs(64)
    config = replace(SMALL, epochs=3)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, _ = fit_rqvae(vectors, (4, 4), config, seed=1, progress=False)
    assert torch.equal(torch.rand(3), expected)
    again, _ = fit_rqvae(vectors, (4, 4), config, seed=1, progress=False)
    other, _ = fit_rqvae(vectors, (4, 4), config, seed=2, progress=False)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.codebooks[0], other.codebooks[0])


def test_length_of_the_vectors_does_not_matter():
    vectors = blobs(64)
    config = replace(SMALL, epochs=5)
    one, _ = fit_rqvae(vectors, (4, 4), config, progress=False)
    other, _ = fit_rqvae(vectors * np.float32(2**-6), (4, 4), config, progress=False)
    x = torch.from_numpy(vectors)
    assert torch.allclose(one.encode(x), other.encode(x * 2**-6), atol=1e-5)
    assert torch.allclose(
        one.decode(one.encode(x)), other.decode(other.encode(x / 64)) * 64, atol=1e-4
    )


def test_dead_codes_restart_on_residuals_without_momentum():
    torch.manual_seed(0)
    model = RqVae(10, (4, 4), SMALL)
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.from_numpy(blobs(32))
    model(x)[0].backward()
    optimizer.step()
    before = [book.detach().clone() for book in model.codebooks]
    used = [torch.tensor([True, False, True, True]), torch.ones(4, dtype=torch.bool)]
    assert restart_dead_codes(model, optimizer, x, used, torch.Generator().manual_seed(0)) == 1
    book = model.codebooks[0]
    assert torch.equal(book[[0, 2, 3]], before[0][[0, 2, 3]])
    hidden = model.encode(x)
    assert (hidden == book[1]).all(-1).any()
    moment = optimizer.state[book]["exp_avg"]
    assert not moment[1].any()
    assert torch.equal(model.codebooks[1], before[1])
    assert F.mse_loss(book[1], before[0][1]) > 0


def test_diverging_training_is_told():
    config = replace(SMALL, learning_rate=1e30, epochs=5)
    with pytest.raises(ValueError, match=r"diverged in epoch .* lower sid\.rqvae\.learning_rate"):
        fit_rqvae(blobs(64), (4, 4), config, progress=False)
