"""Layers, engines, losses: each entry is the derivative of plain training, or is refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import core
from hpo.bench.compatibility.layers import LAYERS
from hpo.bench.compatibility.losses import LOSSES, UNFIT, LossCase
from hpo.bench.compatibility.truth import LR, Data, error, network, slope

ENGINES = ("auto", "unroll", "forward_reverse", "finite_difference")
WAY_OUT = r"use engine=|IndexLoss"
EXACT = 1e-6

FIRST_ORDER_ALONE = {
    "EmbeddingBag (sum)", "EmbeddingBag (mean)", "EmbeddingBag (max)", "attention (flash alone)",
    "cdist (p = 1.0)", "cdist (p = 2.0)", "cdist (p = 3.0)", "segment_reduce",
    "autograd.Function (once_differentiable)", "autograd.Function (jvp, once_differentiable)",
    "autograd.Function (jvp, detached)", "IndexLoss of MultiMarginLoss",
}  # fmt: skip
"""What no exact engine can follow. All else is exact under "auto"."""


@pytest.fixture(autouse=True)
def _one_stream() -> Iterator[None]:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        # torch's own words about nested tensors, lazy layers and the like.
        warnings.simplefilter("ignore", UserWarning)
        yield


def check(name: str, model: nn.Module, case: LossCase) -> None:
    data = Data()
    truth = slope(model, data, case)
    results: dict[str, float | str] = {}
    for engine in ENGINES:
        try:
            results[engine] = error(model, data, case, engine, truth)
        except ValueError as refusal:
            results[engine] = str(refusal)
    for engine, result in results.items():
        if isinstance(result, float):
            assert result < EXACT, (engine, result)
            continue
        assert re.search(WAY_OUT, result), (engine, result)
        named = re.search(r'use engine="(\w+)"', result)
        assert named is None or isinstance(results[named[1]], float), (engine, result)
    worked = {engine for engine, result in results.items() if isinstance(result, float)}
    assert ("auto" in worked) == (name not in FIRST_ORDER_ALONE), results
    assert worked & {"auto", "finite_difference"}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    check(name, network(LAYERS[name]()), LOSSES["F.cross_entropy"])


@pytest.mark.parametrize("name", ["SiLU", "Mish", "GroupNorm", "solve", "GELU", "LayerNorm"])
def test_forward_reverse_follows(name: str) -> None:
    """Some of these have no forward derivative, or a wrong one, unless a graph is made."""
    model, data, case = network(LAYERS[name]()), Data(), LOSSES["F.cross_entropy"]
    assert error(model, data, case, "forward_reverse", slope(model, data, case)) < EXACT


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str) -> None:
    check(name, network(nn.Tanh()), LOSSES[name])


@pytest.mark.parametrize("loss", ["MSELoss", "KLDivLoss", "IndexLoss of the focal loss"])
@pytest.mark.parametrize("layer", ["BatchNorm2d", "SiLU", "LSTM", "TransformerEncoderLayer"])
def test_layers_with_losses(layer: str, loss: str) -> None:
    check(layer, network(LAYERS[layer]()), LOSSES[loss])


@pytest.mark.parametrize("name", UNFIT)
def test_losses_that_do_not_fit_are_refused(name: str) -> None:
    model, data = network(nn.Tanh()), Data()
    for engine in ENGINES:
        options: Any = {"engine": engine, "loss": UNFIT[name]}
        with pytest.raises(ValueError, match=r"loss .*(IndexLoss|one number|instance|give|write)"):
            core.hypergradient(model, *data.arguments, lr=LR, **options)


@pytest.mark.parametrize("engine", ["auto", "unroll"])
def test_a_straight_through_estimator_is_that_of_the_unroll(engine: Any) -> None:
    """Differences see the steps of a rounding: a twin says by `detach` what its gradient is."""

    class Rounded(nn.Module):
        def __init__(self, twin: bool) -> None:
            super().__init__()
            self.twin = twin

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.twin:
                return torch.fake_quantize_per_tensor_affine(x, 0.125, 0, -128, 127)
            return x + ((x / 0.125).round() * 0.125 - x).detach()

    data = Data()
    model = network(Rounded(twin=False))
    twin = nn.Sequential(model[0], Rounded(twin=True), model[2])
    truth = core.hypergradient(twin, *data.arguments, lr=LR, engine="unroll")
    value = core.hypergradient(model, *data.arguments, lr=LR, engine=engine)
    assert float((value - truth).norm() / truth.norm()) < 1e-9


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_without_gradients_is_refused(engine: Any) -> None:
    class Cut(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return super().forward(x)

    data = Data()
    with pytest.raises(ValueError, match=r"does not depend on the parameters.*torch\.no_grad"):
        core.hypergradient(Cut(4, 3).double(), *data.arguments, lr=LR, engine=engine)
