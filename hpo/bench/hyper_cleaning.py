"""Softmax regression whose samples have weights: the problem, its solvers, and what they find.

`studies.hyper_cleaning` says which problem that is, and whose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import core
from core.lazy import functional as F
from core.lazy import numpy as np
from core.lazy import torch
from core.policies import Policy

if TYPE_CHECKING:
    from torch import Tensor

SUITE_SEED, REGULARIZATION, START, BATCH = 32, 0.2, -2.0, 64
"""Of the suite."""

SOBA = (1.0, 1e-4)
"""step_size and outer_ratio of the suite's config/datacleaning0_5_best_params.yml."""

RATE, VAL_BATCH, MOVE = 0.01, 1024, core.Reading(step_size=2.0)
"""Of the rows that the suite does not have: rate of SGD, validation images a step, and how far the
hypergradient moves x. Chosen by f on 4,000 Fashion-MNIST images at ratio 0.5."""


@dataclass(frozen=True)
class Problem:
    """The data, all tensors float: x [N, D], [M, D] and [T, D], y int64.

    Attributes:
        wrong: [N], bool; which training labels are not the true ones.
    """

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    wrong: Tensor
    classes: int

    def inner(self, w: Tensor, weights: Tensor) -> Tensor:
        """Returns g, a scalar, at W [C, D] and the weights σ(x) [N]."""
        x, y = self.train
        return (weights * F.cross_entropy(x @ w.T, y, reduction="none")).mean() + (
            REGULARIZATION * w.square().sum()
        )

    def outer(self, w: Tensor) -> Tensor:
        """Returns f, a scalar, at W [C, D]."""
        x, y = self.validation
        return F.cross_entropy(x @ w.T, y)

    def double(self) -> Problem:
        """Returns it in float64."""

        def wide(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return part[0].double(), part[1]

        parts = wide(self.train), wide(self.validation), wide(self.test)
        return Problem(*parts, self.wrong, self.classes)


@dataclass(frozen=True)
class Found:
    """What a solver leaves: W [C, D], and x [N] or None."""

    w: Tensor
    x: Tensor | None = None


def draw_problem(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    ratio: float,
    train_size: int = 20_000,
    val_size: int = 5_000,
) -> Problem:
    """Returns the suite's problem on these images, drawn as the suite draws.

    Args:
        train, test: images [n, ...] and int64 labels [n].
        ratio: probability that a training label is replaced.
        train_size, val_size: images of the first part for training and validation.

    Raises:
        ValueError: there are too few images.
    """
    if train_size + val_size > len(train[1]):
        raise ValueError(
            f"{train_size} training and {val_size} validation images are more than the "
            f"{len(train[1])} there are; lower --train-size or --val-size"
        )
    from sklearn.model_selection import train_test_split

    rng = np.random.RandomState(SUITE_SEED)
    x, x_val, true, y_val = train_test_split(
        train[0].reshape(len(train[0]), -1).astype(np.float64),
        train[1],
        test_size=val_size,
        train_size=train_size,
        random_state=rng,
    )
    corrupted = rng.rand(train_size) < ratio
    classes = int(max(train[1].max(), test[1].max())) + 1
    given = true.copy()
    given[corrupted] = rng.randint(0, classes, corrupted.sum())
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation[deviation == 0] = 1.0

    def part(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        flat = (images.reshape(len(images), -1) - mean) / deviation
        return torch.from_numpy(flat.astype(np.float32)), torch.from_numpy(labels).long()

    return Problem(
        part(x, given),
        part(x_val, y_val),
        part(*test),
        torch.from_numpy(given != true),
        classes,
    )


def inner_solution(problem: Problem, weights: Tensor) -> Tensor:
    """Returns W* [C, D] in float64 at these weights [N], by L-BFGS; g is strongly convex."""
    from scipy.optimize import minimize

    exact, weights = problem.double(), weights.double()
    shape = problem.classes, exact.train[0].shape[1]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.from_numpy(flat).view(shape).requires_grad_()
        value = exact.inner(w, weights)
        (slope,) = torch.autograd.grad(value, w)
        return float(value.detach()), slope.flatten().numpy()

    options = {"maxiter": 1000, "maxfun": 2000, "ftol": 0.0, "gtol": 1e-9}
    solved = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(solved.x).view(shape)


def trained(problem: Problem, policy: Policy, epochs: int, rate: float = RATE) -> Found:
    """Trains softmax regression by `core.mixed_step` with the weights of a policy, cosine rate.

    Args:
        policy: a policy that weights samples, at its beginning.
        epochs: passes over the training images.
        rate: of plain SGD; the regularization is its weight decay.
    """
    (x, y), (x_val, y_val) = problem.train, problem.validation
    model = torch.nn.Linear(x.shape[1], problem.classes, bias=False).to(x.dtype)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, weight_decay=2 * REGULARIZATION)
    r = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(x), generator=r).split(BATCH) for _ in range(epochs)]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(orders[0]))
    for rows in chain.from_iterable(orders):
        at = torch.randint(len(x_val), (VAL_BATCH,), generator=r)
        batch = x[rows], y[rows]
        given = policy(model, optimizer, batch, (x_val[at], y_val[at]), indices=rows, generator=r)
        core.mixed_step(model, optimizer, batch, given)
        schedule.step()
    return Found(model.weight.detach(), policy.scores)


def soba(problem: Problem, epochs: int, step: float = SOBA[0], ratio: float = SOBA[1]) -> Found:
    """Runs SOBA as the suite has it: W, v and x move together, at rates falling by 1/√t.

    With batches of 64 for g and f: W by ∇g, v by ∇²g v + ∇f, whose zero is −(∇²g)⁻¹ ∇f, and x by
    the derivative of ∇g·v.

    Args:
        epochs: passes over the training images.
        step, ratio: the rate of W and v, and that rate over the rate of x.
    """
    (x, y), (x_val, y_val) = problem.train, problem.validation
    w = torch.zeros(problem.classes, x.shape[1], dtype=x.dtype)
    v, scores = torch.zeros_like(w), torch.full((len(x),), START, dtype=x.dtype)
    r = torch.Generator().manual_seed(0)
    t = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=r).split(BATCH):
            t += 1
            rate = step / t**0.5
            at = torch.randint(len(x_val), (BATCH,), generator=r)
            xb, weights, n = x[rows], torch.sigmoid(scores[rows]), len(rows)
            p = (xb @ w.T).softmax(1)
            residual = p - F.one_hot(y[rows], problem.classes)
            along = xb @ v.T  # ∇g·v is Σ residual·along; ∇²g v has (diag p − p pᵀ) in the middle
            curved = p * (along - (p * along).sum(1, keepdim=True))
            slope = (weights[:, None] * residual).T @ xb / n + 2 * REGULARIZATION * w
            bent = (weights[:, None] * curved).T @ xb / n + 2 * REGULARIZATION * v
            val_residual = (x_val[at] @ w.T).softmax(1) - F.one_hot(y_val[at], problem.classes)
            cross = (residual * along).sum(1) * weights * (1 - weights) / n
            w = w - rate * slope
            v = v - rate * (bent + val_residual.T @ x_val[at] / len(at))
            scores[rows] -= rate / ratio * cross
    return Found(w, scores)


def constant(problem: Problem, x: Tensor) -> Found:
    """Returns what training at weights σ(x) [N] gives in the end: W*."""
    return Found(inner_solution(problem, torch.sigmoid(x)).to(problem.train[0].dtype), x)


Solver = Callable[[Problem, int], Found]

SOLVERS: dict[str, Solver] = {
    "start": lambda problem, _: constant(problem, torch.full((len(problem.wrong),), START)),
    "oracle": lambda problem, _: constant(
        problem, torch.where(problem.wrong, -torch.inf, torch.inf)
    ),
    "soba": soba,
    "persistent-weights": lambda problem, epochs: trained(
        problem, core.PersistentWeights(reading=MOVE, initial=START), epochs
    ),
    "l2rw": lambda problem, epochs: trained(problem, core.LearningToReweight(), epochs),
    "meta-weight-net": lambda problem, epochs: trained(problem, core.MetaWeightNet(), epochs),
}
"""By name; each takes the problem and the passes over the training images."""


def report(problem: Problem, found: Found) -> dict[str, float]:
    """Returns the columns of the table for what a solver found; see `studies.hyper_cleaning`."""

    def error(w: Tensor, part: tuple[Tensor, Tensor]) -> float:
        x, y = part
        return 100 * float(((x @ w.to(x.dtype).T).argmax(1) != y).double().mean())

    line = {
        "test_error": error(found.w, problem.test),
        "val_error": error(found.w, problem.validation),
    }
    if found.x is None:
        return line
    optimum = inner_solution(problem, torch.sigmoid(found.x))
    low, high = found.x[problem.wrong], found.x[~problem.wrong].sort().values
    below = torch.searchsorted(high, low) + torch.searchsorted(high, low, right=True)
    pairs = 2 * len(low) * len(high)
    detection = 1 - float(below.sum()) / pairs if pairs else float("nan")
    return {
        **line,
        "value": float(problem.double().outer(optimum)),
        "val_error_at_optimum": error(optimum, problem.validation),
        "test_error_at_optimum": error(optimum, problem.test),
        "detection": detection,
    }
