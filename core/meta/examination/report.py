"""This module holds what an examination found, as an object and as text."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import torch
from torch import Tensor

SHOWN = {"double_backward": "auto"}
"""Engines whose name in the report is another, the one that users give."""


@dataclass(frozen=True)
class Finding:
    """A finding is one thing to know before training.

    Attributes:
        subject: "data", "optimizer", "mode", "state", "hooks", "gradient hooks", "parameters
            written", "operations" or "engines".
        names: the modules, parameters, operations or engines concerned.
        text: what is the case, and the way out, in a sentence or two.
    """

    subject: str
    names: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class EngineResult:
    """This is what one engine did in a meta stage, beside plain training on the same batch.

    Attributes:
        engine: its name, as `metamixup_step` takes it.
        exact: whether it claims the exact derivative.
        hypergradient: [B], or None where it was refused or not tried.
        times: time over that of a plain step (forward and backward pass of the batch).
        memory: peak memory over that of a plain step.
        error: distance to central differences of plain training along one direction of λ, over the
            most that it could be; None where there is nothing to compare.
        cosine: to the first exact engine's hypergradient.
        refusal: why there is no hypergradient, in the engine's own words; None where there is one.
    """

    engine: str
    exact: bool
    hypergradient: Tensor | None = None
    times: float | None = None
    memory: float | None = None
    error: float | None = None
    cosine: float | None = None
    refusal: str | None = None


@dataclass(frozen=True)
class Examination:
    """An examination says what learning λ would do with a model; `print` shows it as text.

    Attributes:
        subject: model, batches, precision and device, in words.
        engine: the one to take, as `metamixup_step` takes it; None where none works.
        findings: what to know before training; empty where there is nothing.
        engines: each engine's result.
        operations: operations without a second derivative in torch, by torch's names. Where "auto"
            works nevertheless, it has a form of its own for them.
        plain_seconds: of a plain step, forward and backward pass of the batch.
        plain_mebibytes: its peak memory above what was there before.
        differences: precision of the central differences, or None where there are none.
        seconds: of the whole examination.

    Examples:
        >>> import core
        >>> model, optimizer, batch, val_batch = core.testing.toy_problem()
        >>> core.examine(model, batch, val_batch, optimizer=optimizer).findings
        ()
    """

    subject: str
    engine: str | None
    findings: tuple[Finding, ...]
    engines: tuple[EngineResult, ...]
    operations: tuple[str, ...]
    plain_seconds: float
    plain_mebibytes: float
    differences: torch.dtype | None
    seconds: float

    def about(self, subject: str) -> tuple[Finding, ...]:
        """Returns the findings about one subject."""
        return tuple(finding for finding in self.findings if finding.subject == subject)

    def __str__(self) -> str:
        lines = [
            self.subject,
            f"A plain step (forward and backward) takes {self.plain_seconds:.3g} s and "
            f"{self.plain_mebibytes:.3g} MiB; a meta stage takes so many times that:",
            "",
            f"{'engine':<18}{'time':>7}{'memory':>9}{'error':>10}{'cosine':>9}",
        ]
        for result in self.engines:
            if result.refusal is not None:
                lines += _wrapped(f"{result.engine:<18}{result.refusal}", indent=18)
                continue
            row = f"{result.engine:<18}{_times(result.times):>7}{_times(result.memory):>9}"
            row += f"{_number(result.error, '.0e'):>10}{_number(result.cosine, '.3f'):>9}"
            lines.append(row + ("" if result.exact else "  approximate"))
        precision = "no differences" if self.differences is None else str(self.differences)[6:]
        lines += [
            "",
            f"error: to central differences of plain training ({precision}); cosine: to the first "
            "exact engine",
            "",
            f'Take engine="{self.engine}".' if self.engine else "No engine works here.",
        ]
        for finding in self.findings:
            lines += ["", *_wrapped(f"{finding.subject}: {finding.text}", indent=2)]
        if not self.findings:
            lines += ["", "There is nothing else to know."]
        return "\n".join([*lines, "", f"({self.seconds:.1f} s; nothing was changed)"])


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, 100, subsequent_indent=" " * indent, break_long_words=False)


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
