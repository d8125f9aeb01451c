"""Curvature against full Hessians, known eigenvalues and the known rate of power iteration."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from core.analysis.lipschitz import (
    ScalarFunction,
    directional_curvature,
    hessian,
    spectral_norms,
)
from tests.support.streams import generator


def symmetric(eigenvalues: list[float], seed: int = 0) -> Tensor:
    """Returns a dense symmetric matrix with these eigenvalues."""
    n = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator(seed), dtype=torch.float64))
    return q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T


def quadratic(matrix: Tensor) -> ScalarFunction:
    return lambda x: 0.5 * ((x @ matrix) * x).sum(dim=1) + 3 * x[:, 0]


def small_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 1))


def full_hessians(function: ScalarFunction, x: Tensor) -> Tensor:
    """[N, d, d] by two reverse passes over each row alone."""
    return torch.stack(
        [torch.func.jacrev(torch.func.jacrev(lambda v: function(v[None])[0]))(row) for row in x]
    )


def test_products_are_those_of_the_full_hessian() -> None:
    model = small_network().double()
    x, v = torch.randn(2, 4, 6, generator=generator(), dtype=torch.float64)

    def function(inputs: Tensor) -> Tensor:
        return model(inputs).squeeze(1)

    def gradient(inputs: Tensor) -> Tensor:
        inputs = inputs.clone().requires_grad_()
        return torch.autograd.grad(function(inputs).sum(), inputs)[0]

    step = 1e-5
    difference = (gradient(x + step * v) - gradient(x - step * v)) / (2 * step)
    expected = torch.einsum("nij,nj->ni", full_hessians(function, x), v)
    product = hessian(function, x)
    torch.testing.assert_close(product(v), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(product(v), difference, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(product(2 * v), 2 * expected, rtol=1e-10, atol=1e-12)
    assert not product(v).requires_grad
    assert not x.requires_grad


def test_images_keep_their_shape() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(12, 1)).double()
    x = torch.randn(3, 2, 4, 4, generator=generator(), dtype=torch.float64)

    def flat(inputs: Tensor) -> Tensor:
        return model(inputs.view(-1, 2, 4, 4)).squeeze(1)

    expected = torch.linalg.eigvalsh(full_hessians(flat, x.flatten(1))).abs().amax(dim=1)
    actual = spectral_norms(
        lambda inputs: model(inputs).squeeze(1),
        x,
        generator=generator(),
        iterations=3000,
        tolerance=1e-13,
    )
    torch.testing.assert_close(actual.values, expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    "eigenvalues", [[3.0, -1.0, 0.5, 0.1], [-3.0, 2.0, 1.0, 0.0], [3.0, -3.0, 1.0, 1.0]]
)
def test_a_known_outermost_eigenvalue_of_either_sign_is_found(eigenvalues: list[float]) -> None:
    x = torch.randn(5, 4, generator=generator(), dtype=torch.float64)
    actual = spectral_norms(
        quadratic(symmetric(eigenvalues)), x, generator=generator(), iterations=300, tolerance=1e-14
    )
    torch.testing.assert_close(actual.values, torch.full((5,), 3.0, dtype=torch.float64))


def test_estimates_never_fall_and_never_exceed_the_norm() -> None:
    function = quadratic(symmetric([2.0, -1.9, 1.8, -1.7, 1.0, 0.5]))
    x = torch.randn(6, 6, generator=generator(), dtype=torch.float64)
    before = torch.zeros(6, dtype=torch.float64)
    for iterations in range(1, 25):
        actual = spectral_norms(
            function, x, generator=generator(7), iterations=iterations, tolerance=0.0
        )
        assert actual.iterations == iterations
        assert bool((actual.values > before).all())
        assert bool((actual.values <= 2.0 + 1e-12).all())
        torch.testing.assert_close(actual.growth, 1 - before / actual.values)
        before = actual.values


def test_the_error_shrinks_at_the_known_rate() -> None:
    """With second eigenvalue r times the first, each iteration multiplies the error by r²."""
    function = quadratic(symmetric([1.0, 0.8, 0.1, 0.05]))
    x = torch.zeros(1, 4, dtype=torch.float64)
    errors = [
        1
        - float(
            spectral_norms(function, x, generator=generator(3), iterations=n, tolerance=0.0).values[
                0
            ]
        )
        for n in (12, 20)
    ]
    assert errors[0] > 1e-7
    assert math.isclose(errors[1] / errors[0], 0.8 ** (2 * 8), rel_tol=0.02)


def test_it_stops_when_nothing_grows() -> None:
    function = quadratic(torch.eye(4, dtype=torch.float64))
    x = torch.randn(3, 4, generator=generator(), dtype=torch.float64)
    actual = spectral_norms(function, x, generator=generator(), iterations=50)
    assert actual.iterations == 2
    assert float(actual.growth.max()) < 1e-12


def test_the_seed_decides_and_the_global_stream_does_not() -> None:
    function = quadratic(symmetric([2.0, 1.5, 1.0, 0.5]))
    x = torch.randn(3, 4, generator=generator(), dtype=torch.float64)
    results = []
    for noise, seed in ((0, 5), (1, 5), (1, 6)):
        torch.manual_seed(noise)
        results.append(spectral_norms(function, x, generator=generator(seed), iterations=3).values)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("smooth", [True, False])
def test_without_curvature_everything_is_zero(smooth: bool) -> None:
    """A linear function, and a ReLU network: flat wherever it is differentiable."""
    x = torch.randn(3, 6, generator=generator())
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1))

    def function(inputs: Tensor) -> Tensor:
        return inputs.sum(dim=1) if smooth else model(inputs).squeeze(1)

    actual = spectral_norms(function, x, generator=generator())
    assert torch.equal(actual.values, torch.zeros(3))
    assert torch.equal(actual.growth, torch.zeros(3))
    assert torch.equal(directional_curvature(function, x, torch.ones_like(x)), torch.zeros(3))


def test_directional_curvature_of_a_quadratic_form() -> None:
    matrix = symmetric([2.0, -1.0, 0.5, 0.1])
    x, d = torch.randn(2, 5, 4, generator=generator(), dtype=torch.float64)
    expected = torch.einsum("ni,ij,nj->n", d, matrix, d) / d.square().sum(dim=1)
    torch.testing.assert_close(directional_curvature(quadratic(matrix), x, 10 * d), expected)


def test_parameters_of_the_model_get_no_gradient() -> None:
    model = small_network()
    x = torch.randn(3, 6, generator=generator())
    spectral_norms(lambda inputs: model(inputs).squeeze(1), x, generator=generator())
    assert all(p.grad is None for p in model.parameters())


def test_what_is_off_is_named() -> None:
    x = torch.randn(3, 6, generator=generator())
    with pytest.raises(ValueError, match="one number for each of 3 points, got shape \\[3, 6\\]"):
        hessian(lambda inputs: inputs, x)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        spectral_norms(lambda v: v.sum(dim=1), x, generator=generator(), iterations=0)
