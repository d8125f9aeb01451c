"""This engine is one `torch.compile` graph of nested `torch.func` transforms."""

from __future__ import annotations

import contextlib
import itertools
import types
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.func import grad, vjp

from core.meta.engines.any_order import DifferentiatesInside, Watch
from core.meta.engines.double_backward import double_backward
from core.meta.engines.once import refuse_cut_gradients, refuse_other_parameters
from core.meta.engines.replay import Replay
from core.meta.problem import MetaGradient, MetaProblem, Validation, _Inside
from core.mixing.batch import Batch, copied, soft_labels
from core.mixing.losses import mixed_form, unmixed_loss, validation_target
from core.user_model.other_values import places, with_values
from core.user_model.precision import autocast_dtype, outside_autocast
from core.user_model.process_wide import eagerly

T = TypeVar("T")

BACKEND = "inductor"
"""What turns the graph into code; see `torch.compile`."""

MOST_SHAPES = 4
"""Batches of so many shapes are compiled for one model. Each costs seconds to minutes."""


class CompileFallback(UserWarning):
    """The meta stage is not compiled as asked; the engine "double_backward" does it instead.

    Examples:
        >>> import core
        >>> issubclass(core.CompileFallback, UserWarning)  # which filters of warnings take
        True
    """


def compiled(problem: MetaProblem) -> MetaGradient:
    """Takes virtual step, validation gradient and mixed derivative in one graph. Exact.

    The gradient of the mixed batch is a function of λ: `torch.func.vjp` gives its value, and its
    transposed derivative, which is then applied to w. Each loss stands in the graph once, and
    random numbers are drawn by torch's own functions, so dropout has the masks of the real step.

    Graphs are kept for each model object while it lives. Rates, scale and λ are inputs of the
    graph; batches of another shape, or another mode of the model, are compiled once more, for at
    most `MOST_SHAPES`. Where the compiler cannot (there is no C++ compiler, the model or the loss
    is no single graph) or is not asked to (an optimizer's own step, several ranks, more shapes),
    `double_backward` gives the result, and a `CompileFallback` warning says why, once for each
    model and reason. After a failure nothing new is compiled for that model.

    What it costs, on one core of a busy machine: CNN, 178 s to compile, then 1.17 times
    the time of `double_backward`; PreActResNet-18 of width 8, 441 s to compile. No gain there.
    """
    graphs = _GRAPHS.get(problem.model)
    if graphs is None:
        graphs = _GRAPHS[problem.model] = _Graphs()
    replay = Replay(problem.tensors, problem.model)
    reason = _not_asked(problem)
    if reason is None:
        result = graphs.run(problem)
        if isinstance(result, MetaGradient):
            return result
        reason = result
    if reason not in graphs.said:
        graphs.said.add(reason)
        warnings.warn(
            f'engine "compiled" does not compile the meta stage of {type(problem.model).__name__}: '
            f'{reason}; engine "double_backward" does it, with the same result',
            CompileFallback,
            stacklevel=2,
        )
    # Compiled parts of the model have no double backward.
    with replay(), eagerly():
        return double_backward(problem)


def _not_asked(problem: MetaProblem) -> str | None:
    if problem.optimizer is not None:
        return "the inner step is the optimizer's own, and only plain descent is compiled"
    if problem.ranks.size > 1:
        return "several ranks exchange gradients in the middle of it"
    if problem.averaged is not None:
        return "the validation gradient is averaged with earlier ones"
    if problem.validation_loss is not None:
        return "the validation batch has a loss of its own"
    return None


_Pair = tuple[Tensor, Tensor]
_Vjp = tuple[dict[str, Tensor], Callable[[dict[str, Tensor]], tuple[Tensor]], Tensor]
Stage = Callable[..., tuple[Tensor, Tensor, Validation | None]]


def _compile() -> Stage:
    """Returns `_stage` with its own code object, by which the compiler keeps and counts graphs."""
    code = _stage.__code__.replace(co_name=f"_stage_{next(_NUMBER)}")
    stage = types.FunctionType(code, _stage.__globals__)
    options = {"fallback_random": True} if BACKEND == "inductor" else None
    compile_: Callable[..., Stage] = torch.compile
    return compile_(stage, fullgraph=True, dynamic=False, backend=BACKEND, options=options)


@dataclass
class _Graphs:
    """This holds the graphs of one model, and never the model, or neither would be freed."""

    stage: Stage = field(default_factory=_compile)
    classes: dict[Hashable, int] = field(default_factory=dict)
    """C for each kind of batch that has run."""
    checked: set[Hashable] = field(default_factory=set)
    """Which losses have run with which kinds of batch."""
    failure: str | None = None
    said: set[str] = field(default_factory=set)

    def run(self, problem: MetaProblem) -> MetaGradient | str:
        """Returns the result, or why there is none."""
        kind = _kind(problem)
        new = kind not in self.classes
        if new and self.failure is None and len(self.classes) == MOST_SHAPES:
            self.failure = f"batches of {MOST_SHAPES} shapes or modes have been compiled"
        if self.failure is not None:
            return self.failure
        loss = kind, getattr(problem.loss, "__code__", type(problem.loss)), *problem.theta
        if loss not in self.checked:
            try:
                self.classes[kind] = _number_of_classes(problem)
            except DifferentiatesInside:
                self.failure = "the model or the loss takes a derivative itself"
                return self.failure
            self.checked.add(loss)
        problem = _with_labels(problem, self.classes[kind])
        try:
            with _without_deprecations() if new else contextlib.nullcontext(), _seeing_hooks():
                return _run(self.stage, problem)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the compiler raises; a true error comes up again
            del self.classes[kind]
            self.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return self.failure


def _seeing_hooks() -> contextlib.AbstractContextManager[None]:
    """Has the compiler trace anew when hooks of a module come or go, which it assumes they never
    do."""
    patch: Callable[..., contextlib.AbstractContextManager[None]] = torch._dynamo.config.patch
    return patch(skip_nnmodule_hook_guards=False)


@contextlib.contextmanager
def _without_deprecations() -> Iterator[None]:
    """The compiler uses what torch deprecates; where warnings are errors, it would fail by that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*is deprecated")
        yield


_GRAPHS: WeakKeyDictionary[nn.Module, _Graphs] = WeakKeyDictionary()
_NUMBER = itertools.count()


def _kind(problem: MetaProblem) -> Hashable:
    """Returns what makes the compiler trace anew: shapes, dtypes and modes."""
    tensors = *problem.batch, *problem.val_batch, *problem.originals.values()
    return (
        tuple((t.dtype, *t.shape) for t in tensors),
        tuple(module.training for module in problem.model.modules()),
    )


def _number_of_classes(problem: MetaProblem) -> int:
    """Returns C, from ordinary passes, which also raise what is wrong with labels or loss."""

    def classes() -> int:
        x, y = copied(problem.val_batch)
        logits = problem.logits(x)
        unmixed_loss(problem.loss, logits, y)
        return logits.shape[1]

    theta = {name: p.detach().requires_grad_() for name, p in problem.theta.items()}

    def differentiate() -> None:
        with Watch():
            loss = problem.virtual_loss()
        refuse_other_parameters(loss, theta, problem.originals, problem.others)
        with refuse_cut_gradients(loss):
            problem.gradients(loss, list(theta.values()), create_graph=True)

    with Replay(problem.tensors, problem.model)():
        with torch.enable_grad():
            problem.at(theta, differentiate)
        with torch.no_grad(), Watch():
            return problem.at(theta, classes)


def _with_labels(problem: MetaProblem, classes: int) -> MetaProblem:
    """Returns the problem with loss and labels as the graph takes them: it sees no values.

    Raises:
        ValueError: a label lies outside of the classes.
    """
    (x, y), (x_val, y_val) = problem.batch, problem.val_batch
    form = mixed_form(problem.loss, y) or mixed_form(problem.loss, y_val)
    if form is not None:
        return replace(problem, loss=form)
    soft = soft_labels(y, classes, dtype=problem.lam.dtype)
    target = validation_target(problem.loss, y_val, classes, problem.lam.dtype)
    return replace(problem, batch=(x, soft), val_batch=(x_val, target))


def _run(stage: Stage, problem: MetaProblem) -> MetaGradient:
    theta = {name: p.detach() for name, p in problem.theta.items()}
    some = next(iter(theta.values()))
    dtype = torch.promote_types(some.dtype, torch.float32)
    lam = problem.lam.detach()
    others = {name: p.detach() for name, p in problem.originals.items() if name not in theta}
    constant = replace(
        problem, theta={}, originals=others, lam=lam, lr=None, scale=1.0, validation_gradient=None
    )
    inside = _Inside(problem.model)
    kind = lam.device.type
    region = None if autocast_dtype(kind) is None else (kind, autocast_dtype(kind))
    traced = _Traced(**vars(constant), inside=inside, places=places(inside), region=region)
    # The second of these puts back what a failing compiler leaves switched off.
    hooks = disable_saved_tensors_hooks("not in a compiled meta stage")
    with torch.no_grad(), hooks, outside_autocast(kind):
        hypergradient, virtual_loss, ahead = stage(
            traced,
            # Tensors, all that changes from call to call: no value is compiled in.
            theta,
            problem.batch,
            problem.val_batch,
            lam,
            problem.partner,
            # One tensor: Dynamo takes one without a dimension for a number, and compiles twice.
            torch.tensor([problem.scale, *problem.rates()], dtype=dtype, device=some.device),
            None if problem.validation_gradient is None else problem.validation_gradient[1],
        )
    validation = problem.validation_gradient or ahead
    assert validation is not None
    return MetaGradient(hypergradient, validation[0], virtual_loss, validation)


@dataclass(frozen=True)
class _Traced(MetaProblem):
    """This is the problem without what a graph cannot do: build a module, look at data."""

    inside: nn.Module = field(kw_only=True)
    places: dict[str, list[str]] = field(kw_only=True)
    region: tuple[str, torch.dtype | None] | None = field(kw_only=True)
    """The autocast of the caller, by device and type: around the forward passes alone."""

    def at(self, theta: Mapping[str, Tensor], body: Callable[[], T]) -> T:
        buffers = {name: b.clone() for name, b in self.model.named_buffers()}
        # Not by `|`, which the compiler of torch 2.6 does not follow.
        values = {**buffers, **self.originals, **theta}
        inside = {f"model.{name}": value for name, value in values.items()}
        if self.region is None:
            return cast(T, with_values(self.inside, inside, body, at=self.places))
        kind, dtype = self.region
        with torch.autocast(kind, dtype=dtype, cache_enabled=False):
            return cast(T, with_values(self.inside, inside, body, at=self.places))

    def meta_loss(self) -> Tensor:
        x, y = copied(self.val_batch)
        return self.loss(self.logits(x), y)


def _stage(
    problem: _Traced,
    theta: dict[str, Tensor],
    batch: Batch,
    val_batch: Batch,
    lam: Tensor,
    partner: Tensor,
    numbers: Tensor,
    v: list[Tensor] | None,
) -> tuple[Tensor, Tensor, Validation | None]:
    """Returns hypergradient, virtual loss, and validation loss and gradient if v is not given."""
    scale, *rates = numbers.unbind()
    validation = None

    def scaled(problem: _Traced, loss: Callable[[], Tensor], theta: dict[str, Tensor]) -> _Pair:
        value = problem.at(theta, loss)
        return value * scale, value

    def gradient(lam: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        mixed = replace(problem, batch=batch, partner=partner, lam=lam)
        g, loss = grad(lambda theta: scaled(mixed, mixed.virtual_loss, theta), has_aux=True)(theta)
        return g, loss

    g, transposed, virtual_loss = cast(_Vjp, vjp(gradient, lam, has_aux=True))
    if v is None:
        prime = {
            name: p - rate * (g[name] / scale)
            for (name, p), rate in zip(theta.items(), rates, strict=True)
        }
        ahead = replace(problem, val_batch=val_batch)
        slope, meta_loss = grad(lambda prime: scaled(ahead, ahead.meta_loss, prime), has_aux=True)(
            prime
        )
        v = [slope[name] / scale for name in theta]
        validation = meta_loss, v
    w = {name: -rate * along for name, along, rate in zip(theta, v, rates, strict=True)}
    (hypergradient,) = transposed(w)
    return hypergradient / scale, virtual_loss, validation
