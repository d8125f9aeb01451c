"""Peers compute the same hypergradient by other libraries, as the documentation of each shows.

Every function here takes a bench and gives back a function (lam [B], partner [B]) → [B]:
d(validation loss)/d(lam) through one step of plain gradient descent, as `core.hypergradient` has
it. None of them is needed by anything else, so each is imported where it is used. After a call the
parameters are what they were before; buffers of BatchNorm are left as the library leaves them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core import mix_inputs, mix_labels, soft_cross_entropy
from hpo.bench.cost.bench import Bench

Hypergradient = Callable[[Tensor, Tensor], Tensor]
"""(lam [B], partner [B]) → [B]."""


def higher(bench: Bench) -> Hypergradient:
    """Uses `higher`: `innerloop_ctx` and the differentiable optimizer that it yields."""
    import higher

    inner = torch.optim.SGD(bench.model.parameters(), lr=bench.lr)

    def hypergradient(lam: Tensor, partner: Tensor) -> Tensor:
        lam = lam.detach().requires_grad_()
        with higher.innerloop_ctx(bench.model, inner) as (model, step):
            step.step(_mixed_loss(bench, model, lam, partner))
            return torch.autograd.grad(_meta_loss(bench, model), lam)[0]

    return hypergradient


def torchopt(bench: Bench) -> Hypergradient:
    """Uses TorchOpt: `MetaSGD`, between `extract_state_dict` and `recover_state_dict`."""
    import torchopt

    inner = torchopt.MetaSGD(bench.model, lr=bench.lr)

    def hypergradient(lam: Tensor, partner: Tensor) -> Tensor:
        lam = lam.detach().requires_grad_()
        network = torchopt.extract_state_dict(bench.model)
        state = torchopt.extract_state_dict(inner)
        try:
            inner.step(_mixed_loss(bench, bench.model, lam, partner))
            return torch.autograd.grad(_meta_loss(bench, bench.model), lam)[0]
        finally:
            torchopt.recover_state_dict(bench.model, network)
            torchopt.recover_state_dict(inner, state)

    return hypergradient


def learn2learn(bench: Bench) -> Hypergradient:
    """Uses learn2learn: a clone of `MAML`, adapted to the mixed batch."""
    import learn2learn as l2l

    maml = l2l.algorithms.MAML(bench.model, lr=bench.lr)

    def hypergradient(lam: Tensor, partner: Tensor) -> Tensor:
        lam = lam.detach().requires_grad_()
        learner = maml.clone()
        learner.adapt(_mixed_loss(bench, learner, lam, partner))
        return torch.autograd.grad(_meta_loss(bench, learner), lam)[0]

    return hypergradient


def betty(bench: Bench) -> Hypergradient:
    """Uses Betty in reverse mode, `HigherIterativeProblem`, as its reweighting example; exact."""
    return _betty(bench, "reverse")


def betty_darts(bench: Bench) -> Hypergradient:
    """Uses Betty's default, `ImplicitProblem` with `Config(type="darts")`.

    Central difference, and of the mixed gradient at θ′ where the derivative asks for θ. The result
    lacks the factor η of Eq. 9, which is supplied here.
    """
    return _betty(bench, "darts")


def _betty(bench: Bench, kind: Literal["reverse", "darts"]) -> Hypergradient:
    """Builds the two problems of Betty: the upper one owns λ, the lower one the network.

    Betty 0.1.1 trains on: its lower step replaces the weights, and its `roll_back` keeps no copy of
    them. So they are copied and put back here.
    """
    from betty.configs import Config, EngineConfig
    from betty.engine import Engine
    from betty.logging import get_logger
    from betty.problems import HigherIterativeProblem, ImplicitProblem

    get_logger().setLevel(logging.WARNING)  # or it says each time what problems there are
    Lower: Any = HigherIterativeProblem if kind == "reverse" else ImplicitProblem
    pairs: list[Tensor] = [bench.partner]
    gradients: list[Tensor] = []

    class Coefficients(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lam = nn.Parameter(bench.lam.clone())

        def forward(self) -> Tensor:
            return self.lam

    class Outer(ImplicitProblem):  # type: ignore[misc,valid-type,unused-ignore]
        def training_step(self, batch: Any) -> Tensor:
            x, y = batch
            with bench.autocast_region():
                return soft_cross_entropy(self.inner(x), y)

        def custom_optimizer_step(self) -> None:
            gradients.append(self.module.lam.grad.detach())

    class Inner(Lower):  # type: ignore[misc,valid-type,unused-ignore]
        def training_step(self, batch: Any) -> Tensor:
            x, y = batch
            lam, partner = self.outer(), pairs[0]
            with bench.autocast_region():
                logits = self.module(mix_inputs(x, lam, partner))
                return soft_cross_entropy(logits, mix_labels(y, lam, partner, logits.shape[1]))

    coefficients = Coefficients()
    device = str(bench.device)
    outer = Outer(
        name="outer",
        config=Config(first_order=kind == "darts", retain_graph=True),
        module=coefficients,
        optimizer=torch.optim.SGD(coefficients.parameters(), lr=1.0),
        train_data_loader=[bench.val_batch],
        device=device,
    )
    inner = Inner(
        name="inner",
        config=Config(type="darts", unroll_steps=1),
        module=bench.model,
        optimizer=torch.optim.SGD(bench.model.parameters(), lr=bench.lr),
        train_data_loader=[bench.batch],
        device=device,
    )
    engine = Engine(
        problems=[outer, inner],
        config=EngineConfig(train_iters=1),
        dependencies={"u2l": {outer: [inner]}, "l2u": {inner: [outer]}},
    )

    def hypergradient(lam: Tensor, partner: Tensor) -> Tensor:
        coefficients.lam.data = lam.detach().clone()
        pairs[0] = partner
        tensors = [*bench.model.parameters(), *bench.model.buffers()]
        saved = [tensor.detach().clone() for tensor in tensors]
        engine.run()
        with torch.no_grad():
            for tensor, value in zip(tensors, saved, strict=True):
                tensor.copy_(value)
        return gradients.pop() * (bench.lr if kind == "darts" else 1.0)

    return hypergradient


PEERS: Mapping[str, Callable[[Bench], Hypergradient]] = {
    "higher": higher,
    "torchopt": torchopt,
    "betty": betty,
    "betty_darts": betty_darts,
    "learn2learn": learn2learn,
}
"""By name, as the table has them."""

PACKAGES: Mapping[str, str] = {
    "higher": "higher",
    "torchopt": "torchopt",
    "betty": "betty-ml",
    "betty_darts": "betty-ml",
    "learn2learn": "learn2learn",
}
"""What pip calls them."""


def _mixed_loss(bench: Bench, model: Any, lam: Tensor, partner: Tensor) -> Tensor:
    x, y = bench.batch
    with bench.autocast_region():
        logits = model(mix_inputs(x, lam, partner))
        return soft_cross_entropy(logits, mix_labels(y, lam, partner, logits.shape[1]))


def _meta_loss(bench: Bench, model: Any) -> Tensor:
    x, y = bench.val_batch
    with bench.autocast_region():
        return soft_cross_entropy(model(x), y)
