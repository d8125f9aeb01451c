"""This module runs the passes of an examination and draws its conclusions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from core.meta.engines import FIRST_ORDER
from core.meta.engines.once import differentiable_once
from core.meta.examination import findings
from core.meta.examination.plain import PlainTraining
from core.meta.examination.report import SHOWN, EngineResult, Examination, Finding
from core.meta.examination.tracked import BackwardOperations, Memory
from core.meta.examination.unseen import Unseen
from core.meta.gradient import kernels_for, meta_gradient
from core.meta.problem import MetaGradient
from core.user_model.snapshot import Snapshot
from core.user_model.untouched import untouched

T = TypeVar("T")

_COST = {"double_backward": 4.5, "finite_difference": 4.5, "unroll": 5.5, "forward_reverse": 6.0}
"""Plain steps that a stage takes, roughly, in the order in which engines are tried."""

_REPEATED, _REPEATS = 0.3, 4
"""What takes fewer seconds is timed again, so often at most, without the counting of memory."""

_NEAREST, _FARTHEST, _SEEN = 1e-11, 1e-6, 1e-11
"""How far λ is moved for a difference in float64: as far as changes the loss by so much of itself,
within limits. Steps are short because the gradient of a ReLU network jumps where a unit switches,
which differences see and the derivative does not."""

_STEP_SINGLE = 2e-2
"""The same in float32."""

_OFF, _OFF_HALF = 1e-3, 1e-2
"""So far, of itself, the loss in float64 may be from that of the engines, or other numbers were
drawn; the latter for models in bfloat16 or float16, and under autocast."""

_SMALL = 1e-2
"""A loss below it counts as it there."""

_AGREES = {torch.float64: 1e-2, torch.float32: 1e-1}
"""Errors that differences of this precision call agreement: engines in float32 have about 1e-4."""

_AGREES_HALF = 0.3
"""The same for models in bfloat16 or float16, and under autocast."""

_SLOW, _NEAR = 3.0, 0.9
"""Finite differences are taken where they are so many times as fast, with at least that cosine."""


@dataclass(frozen=True)
class _Cost:
    """This is what a pass costs: its time in seconds, and its peak memory in bytes."""

    seconds: float
    bytes: int


@dataclass
class Passes:
    """This runs the passes of one examination and keeps what they say.

    Attributes:
        plain: plain training with model, batches and λ.
        snapshot: of what passes can change; put back after each.
        deadline: when no further engine is tried, by `time.perf_counter`.
        findings: made before the passes; those that the passes make are added.
    """

    plain: PlainTraining
    snapshot: Snapshot
    deadline: float
    findings: list[Finding]
    _changed: set[str] = field(default_factory=set)
    _slope: tuple[Tensor, float, torch.dtype] | None = None
    """A direction of λ [B], the difference along it, and its precision."""

    def report(self) -> Examination:
        """Returns all of it but the time that it took."""
        operations = self._without_second_derivative()
        plain, _ = self._measured(partial(self.plain.step, self.plain.values()), least=2)
        results: dict[str, EngineResult] = {}
        reference: Tensor | None = None
        for engine, steps in _COST.items():
            needed = steps * plain.seconds
            if results and time.perf_counter() + needed > self.deadline:
                text = f"not tried, to stay within the time: about {needed:.2g} s"
                results[engine] = _result(engine, refusal=text)
                continue
            try:
                cost, meta = self._measured(
                    partial(self._stage, engine), least=2 if needed < _REPEATED else 1
                )
            except ValueError as error:
                results[engine] = _result(engine, refusal=str(error))
                continue
            value = meta.hypergradient
            if reference is None:
                reference = value
                self._slope = self._differences(value, float(meta.meta_loss))
            results[engine] = _result(
                engine,
                hypergradient=value,
                times=cost.seconds / plain.seconds,
                memory=cost.bytes / max(plain.bytes, 1),
                error=self._error(value),
                cosine=float(F.cosine_similarity(value, reference, dim=0)),
            )
        results["compiled"] = _result("compiled", refusal="not tried: it takes minutes to compile")
        self._conclude(operations, results)
        return Examination(
            subject=self._subject(),
            engine=self._best(results, plain),
            findings=tuple(self.findings),
            engines=tuple(results.values()),
            operations=tuple(operations),
            plain_seconds=plain.seconds,
            plain_mebibytes=plain.bytes / 2**20,
            differences=None if self._slope is None else self._slope[2],
            seconds=0.0,
        )

    def _without_second_derivative(self) -> list[str]:
        """Returns the names of operations, and of functions marked once_differentiable."""
        plain, recorded = self.plain, BackwardOperations()
        values = plain.values()
        before = {name: value.detach().clone() for name, value in values.items()}
        with plain.replay(), untouched(plain.module), kernels_for("unroll", plain.module):
            loss = plain.training_loss(values, plain.lam)
            parameters = [name for name, _ in plain.module.named_parameters()]
            self.findings += findings.written(
                name for name in parameters if not torch.equal(values[name], before[name])
            )
            once = differentiable_once(loss)
            trained = [*plain.trained(values).values()]
            with recorded:
                torch.autograd.grad(loss, trained, create_graph=True, allow_unused=True)
            names = [*recorded.without_derivative(), *once]
        self._put_back()
        return names

    def _stage(self, engine: str) -> MetaGradient:
        plain = self.plain
        return meta_gradient(
            plain.module,
            plain.batch,
            plain.val_batch,
            plain.lam,
            plain.partner,
            lr=plain.rates,
            engine=engine,  # type: ignore[arg-type]
            loss=plain.loss,
            mixing=plain.mixing,
            logits_of=plain.logits_of,
            others=plain.others,
        )

    def _measured(self, run: Callable[[], T], least: int = 1) -> tuple[_Cost, T]:
        """Returns what a pass costs, and its result, and puts back what it changed.

        The first time has the counting of memory in it, and what torch does but once.
        """
        with Memory() as memory:
            watched, result = self._timed(run)
        times = [watched]
        while len(times) < least or (sum(times) < _REPEATED and len(times) < _REPEATS):
            times.append(self._timed(run)[0])
        return _Cost(min(times[1:], default=watched), memory.peak), result

    def _timed(self, run: Callable[[], T]) -> tuple[float, T]:
        started = time.perf_counter()
        try:
            result = run()
            if self.plain.lam.is_cuda:
                torch.cuda.synchronize(self.plain.lam.device)
            return time.perf_counter() - started, result
        finally:
            self._put_back()

    def _put_back(self) -> None:
        self._changed |= self.snapshot.restore()

    def _differences(
        self, hypergradient: Tensor, meta_loss: float
    ) -> tuple[Tensor, float, torch.dtype] | None:
        """Returns a direction, the difference along it, and its precision; None if there is none.

        The direction is half that of the hypergradient, lest it be one in which nothing happens.
        """
        stream = torch.Generator().manual_seed(1)
        noise = torch.randn(len(hypergradient), generator=stream, device="cpu").to(hypergradient)
        direction = F.normalize(
            F.normalize(hypergradient, dim=0) + F.normalize(noise, dim=0), dim=0
        )
        if not bool(direction.isfinite().all()):
            return None
        slope = abs(float(hypergradient @ direction))
        wanted = _SEEN * abs(meta_loss) / slope if slope else _FARTHEST
        step_double = min(max(wanted, _NEAREST), _FARTHEST)
        for dtype, step in ((torch.float64, step_double), (torch.float32, _STEP_SINGLE)):
            lam, along = self.plain.lam.to(dtype), step * direction.to(dtype)
            try:
                with Unseen() as unseen:
                    values = []
                    for at in (lam + along, lam - along):
                        values.append(self._timed(partial(self.plain.meta_loss, at))[1])
                        unseen.again()
            except Exception:  # a model that does not run in this precision
                continue
            up, down = (float(value.detach()) for value in values)
            off = _OFF_HALF if self._half else _OFF
            if abs((up + down) / 2 - meta_loss) <= off * max(abs(meta_loss), _SMALL):
                return direction, (up - down) / (2 * step), dtype
        return None

    def _error(self, hypergradient: Tensor) -> float | None:
        if self._slope is None:
            return None
        direction, slope, _ = self._slope
        off = abs(float(hypergradient @ direction) - slope)
        return off / float(hypergradient.norm()) if off else 0.0

    def _agrees(self, result: EngineResult) -> bool:
        if not _finite(result):
            return False
        if result.error is None or self._slope is None:
            return True
        return result.error <= (_AGREES_HALF if self._half else _AGREES[self._slope[2]])

    @property
    def _half(self) -> bool:
        """Says whether passes are computed in fewer digits than those of float32."""
        wide = {p.dtype for p in self.plain.module.parameters()} <= {torch.float32, torch.float64}
        return not wide or torch.is_autocast_enabled(self.plain.lam.device.type)

    def _conclude(self, operations: list[str], results: dict[str, EngineResult]) -> None:
        self.findings += findings.state(sorted(self._changed))
        auto = results["double_backward"].hypergradient is not None
        if results["unroll"].hypergradient is not None:
            operations.clear()  # it has torch's own derivatives alone
        self.findings += findings.operations(operations, auto)
        wrong = [r for r in results.values() if r.exact and r.refusal is None]
        self.findings += findings.engines([r for r in wrong if not self._agrees(r)])

    def _best(self, results: dict[str, EngineResult], plain: _Cost) -> str | None:
        """Returns the name of the engine to take."""
        exact = {name: r for name, r in results.items() if r.exact and _finite(r)}
        right = {name: r for name, r in exact.items() if self._agrees(r)}
        approximate = results["finite_difference"]
        if not right and (self._agrees(approximate) or not exact):
            return approximate.engine if _finite(approximate) else None
        # Where none agrees, differences may see what autograd does not; a finding says so.
        right = right or exact
        name, best = next(iter(right.items()))
        near = _finite(approximate) and (approximate.cosine or 0) >= _NEAR
        seconds = (best.times or 0) * plain.seconds
        # Times of what is quick anyway say little.
        limit = max(_SLOW * (approximate.times or float("inf")) * plain.seconds, _REPEATED)
        if near and seconds > limit:  # or the machine halted
            seconds = min(seconds, self._timed(partial(self._stage, name))[0])
        return approximate.engine if near and seconds > limit else best.engine

    def _subject(self) -> str:
        plain, module = self.plain, self.plain.module
        size = sum(p.numel() for p in module.parameters())
        mode = "training" if module.training else "evaluation"
        dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()})
        return (
            f"{type(module).__name__}, {size:,} parameters ({', '.join(dtypes)}), {mode} mode, "
            f"{len(plain.batch[0])} training and {len(plain.val_batch[0])} validation samples, "
            f"{plain.lam.device.type}"
        )


def _result(engine: str, **what: object) -> EngineResult:
    exact = engine not in FIRST_ORDER
    return replace(EngineResult(SHOWN.get(engine, engine), exact), **what)  # type: ignore[arg-type]


def _finite(result: EngineResult) -> bool:
    return result.hypergradient is not None and bool(result.hypergradient.isfinite().all())
