"""The whole meta stage as one `torch.compile` graph of nested `torch.func` transforms."""

from __future__ import annotations

import contextlib
import itertools
import types
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import grad, vjp

from core.engines.double_backward import double_backward
from core.engines.replay import Replay
from core.meta_problem import MetaGradient, MetaProblem, Validation
from core.mixing import soft_labels

BACKEND = "inductor"
"""What turns the graph into code; see `torch.compile`."""


class CompileFallback(UserWarning):
    """The meta stage cannot be compiled as asked; the engine "double_backward" does it."""


def compiled(problem: MetaProblem) -> MetaGradient:
    """Virtual step, validation gradient and mixed derivative in one graph. Exact.

    The gradient of the mixed batch is a function of λ; `torch.func.vjp` of it gives that gradient
    and its transposed derivative, which is applied to w. Each loss is evaluated once, so dropout
    draws the masks of the eager engines.

    A graph is kept for each model object, as long as the model lives; rates, scale and λ are its
    inputs. The first call compiles, seconds to minutes. Where that is not possible (no C++
    compiler, a model or loss that is no single graph, an optimizer's own step, several ranks)
    there is one `CompileFallback` warning for each model and reason, and `double_backward` gives
    the result. A batch of another shape is compiled once more; a shape that cannot be is left
    to `double_backward`, and so is every new shape after it.
    """
    stages = _STAGES.get(problem.model)
    if stages is None:
        stages = _STAGES[problem.model] = _Stages()
    replay = Replay(problem)
    reason = _unsupported(problem)
    if reason is None:
        reason, result = stages.run(problem)
        if result is not None:
            return result
    if reason not in stages.said:
        stages.said.add(reason)
        warnings.warn(
            f'engine "compiled" cannot compile the meta stage of {type(problem.model).__name__}: '
            f'{reason}. engine "double_backward" takes its place; its result is the same',
            CompileFallback,
            stacklevel=2,
        )
    set_stance = getattr(torch.compiler, "set_stance", None)  # torch 2.6 and later
    # Compiled parts of the model have no double backward.
    with replay(), set_stance("force_eager") if set_stance else contextlib.nullcontext():
        return double_backward(problem)


def _unsupported(problem: MetaProblem) -> str | None:
    if problem.optimizer is not None:
        return "the inner step is the optimizer's own, and only plain descent is compiled"
    if problem.ranks.size > 1:
        return "there are several ranks, which talk in the middle of the stage"
    return None


Stage = Callable[..., tuple[Tensor, Tensor, Validation | None]]


@dataclass
class _Stages:
    """The graphs of one model, which it must not refer to."""

    stage: Stage = field(default_factory=lambda: _compile())
    classes: dict[Hashable, int] = field(default_factory=dict)
    """C for each shape of batches that has run."""
    failure: str | None = None
    said: set[str] = field(default_factory=set)

    def run(self, problem: MetaProblem) -> tuple[str, MetaGradient | None]:
        """Why it did not run, or its result."""
        key = _key(problem)
        if key not in self.classes:
            if self.failure is not None:
                return self.failure, None
            self.classes[key] = _number_of_classes(problem)
        for y in (problem.batch[1], problem.val_batch[1]):
            soft_labels(y, self.classes[key])  # refuses labels out of range, as no graph can
        try:
            return "", _run(self.stage, problem)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the compiler raises what it likes
            del self.classes[key]
            text = " ".join(str(error).split())
            self.failure = f"{type(error).__name__}: {text[:300]}"
            return self.failure, None


_STAGES: WeakKeyDictionary[nn.Module, _Stages] = WeakKeyDictionary()
_NUMBER = itertools.count()


def _compile() -> Stage:
    """`_stage`, compiled apart from every other model's: graphs are kept by code object."""
    code = _stage.__code__.replace(co_name=f"_stage_{next(_NUMBER)}")
    own = types.FunctionType(code, _stage.__globals__, closure=_stage.__closure__)
    # Otherwise random numbers would be others than in the real step.
    options = {"fallback_random": True} if BACKEND == "inductor" else None
    return torch.compile(own, fullgraph=True, backend=BACKEND, options=options)


def _key(problem: MetaProblem) -> Hashable:
    """What may make the compiler trace anew: the shapes and the modes."""
    tensors = (*problem.batch, *problem.val_batch)
    return (
        tuple((t.dtype, *t.shape) for t in tensors),
        tuple(module.training for module in problem.model.modules()),
    )


def _number_of_classes(problem: MetaProblem) -> int:
    """C, from an ordinary pass, which raises what is wrong with the model, the loss or labels."""
    seen: list[int] = []

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        seen.append(logits.shape[1])
        return problem.loss(logits, target)

    probe = replace(problem, loss=loss)
    with torch.no_grad(), Replay(problem)():
        probe.at(problem.theta, probe.meta_loss)
    return seen[0]


def _run(stage: Stage, problem: MetaProblem) -> MetaGradient:
    theta = {name: p.detach() for name, p in problem.theta.items()}
    first = next(iter(theta.values()))
    dtype = torch.promote_types(first.dtype, torch.float32)
    constants = {
        name: p.detach() for name, p in problem.originals.items() if name not in problem.theta
    }
    with torch.no_grad():
        hypergradient, virtual_loss, validation = stage(
            # What changes from call to call is given apart, as tensors: no value is compiled in.
            replace(problem, theta={}, originals=constants, lr=None, scale=1.0, known=None),
            theta,
            problem.batch,
            problem.val_batch,
            problem.lam.detach(),
            problem.partner,
            torch.tensor(problem.rates(), dtype=dtype, device=first.device),
            torch.tensor(problem.scale, dtype=dtype, device=first.device),
            problem.known,
        )
    return MetaGradient(hypergradient, validation[0], virtual_loss, validation)


def _stage(
    problem: MetaProblem,
    theta: dict[str, Tensor],
    batch,
    val_batch,
    lam: Tensor,
    partner: Tensor,
    rates: Tensor,
    scale: Tensor,
    known: Validation | None,
) -> tuple[Tensor, Tensor, Validation | None]:
    def gradient(lam: Tensor):
        mixed = replace(problem, batch=batch, partner=partner, lam=lam)

        def scaled(theta: dict[str, Tensor]):
            loss = mixed.at(theta, mixed.virtual_loss)
            return loss * scale, loss

        g, loss = grad(scaled, has_aux=True)(theta)
        return g, loss

    g, transposed, virtual_loss = vjp(gradient, lam, has_aux=True)
    if known is None:
        prime = {
            name: p - rate * (g[name] / scale)
            for (name, p), rate in zip(theta.items(), rates.unbind(), strict=True)
        }
        ahead = replace(problem, val_batch=val_batch)

        def scaled(prime: dict[str, Tensor]):
            loss = ahead.at(prime, ahead.meta_loss)
            return loss * scale, loss

        slope, meta_loss = grad(scaled, has_aux=True)(prime)
        known = meta_loss, [v / scale for v in slope.values()]
    w = {name: -rate * v for name, v, rate in zip(theta, known[1], rates.unbind(), strict=True)}
    (hypergradient,) = transposed(w)
    return hypergradient / scale, virtual_loss, known
