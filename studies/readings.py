"""The readings of MetaMixUp: what the paper leaves open, varied; which readings move λ and pay.

The paper says "random initialize λ", moves λ by its gradient with α = 5 and squeezes it by a
sigmoid. It leaves open how λ starts, where the sigmoid stands, what the gradient is scaled by and
much else (`core.Reading`). Its claims that a reading can be held against:

- Fig. 6 (λ on MNIST): "A higher frequency of 0 and 1 has occurred in MetaMixUp compared to MixUp."
- Table I, error in percent: MetaMixUp below MixUp below no MixUp, but for MNIST and ImageNet, where
  MixUp is above no MixUp.

      PreActResNet-18  Fashion  SVHN  CIFAR-10  CIFAR-100  MNIST  ImageNet
      Baseline           7.31   4.62    5.62      25.20     0.54    52.84
      MixUp              6.74   3.83    4.57      21.35     0.59    55.06
      MetaMixUp          5.15   2.96    3.12      20.36     0.38    47.35

Rows: a full factorial of projection (sigmoid before, after, clip) × gradient (of λ, of its logit) ×
scale (mean, sum, RMS, sign) × step size (three, from "hardly moves" to "most λ near 0 or 1"); by
the sign both gradients are one reading, so 63 rows stand for 72 combinations. Then, one at a time
around the default reading and around the paper's letter: starting distribution, inner step with
momentum and weight decay, three meta steps, smaller and larger meta-validation set, meta-validation
images that also train; more step sizes around the default. For reference no MixUp, Beta(1),
Beta(0.2), a searched Beta, the first two also trained on the meta-validation images; and the
controls of the default reading, placebo and frozen λ. (Others have none: it would triple the cost.)

Two things to know when reading the table. A row with more or fewer meta-validation images draws
other training images under the same seed. A row whose meta-validation images also train has more
training images than the others: compare it with the `+meta` rows.

Cost with three seeds on two idle CPU cores, reckoned from the 3.7 s and 45 s that a learned
training of Table II takes: quick on digits (100 training images) about twelve minutes, with
`--epochs 100` about nine; on Fashion-MNIST 90 minutes, with `--epochs 5` half an hour.

    python studies/readings.py --dataset digits --preset quick --seeds 3
    python studies/readings.py --dataset fashion_mnist --epochs 5 --seeds 3
    python studies/readings.py --rows none,beta-1,after-lam-mean-5,before-logit-rms-4
    ray submit CLUSTER.yaml studies/readings.py -- --dataset mnist --preset paper --output /shared/r

Beside the files of every study it leaves `readings-ranked.csv`, `readings-effects.csv` and
`readings-lambda.png`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from core.meta.reading import DEFAULT, PAPER, Reading
from core.policies import Beta, LearnedConfig, PolicyConfig
from hpo.analyses.readings.factorial import DesignPoint
from hpo.analyses.readings.report import readings_report
from hpo.report.outcome import Extra, Outcome
from hpo.run import run_study
from hpo.study.named_rows import NONE, SEARCHED, beta, row
from hpo.study.rows import StudyRow, controls
from hpo.study.variants import with_meta_images
from studies.rows import renamed

PROJECTIONS = {"before": "sigmoid_before", "after": "sigmoid_after", "clip": "clip"}
GRADIENTS = ("lam", "logit")
"""Factors of the factorial, with the names that they have in a row's key."""

STEP_SIZES: Mapping[str, tuple[float, float, float]] = {
    "mean": (5, 500, 50_000),
    "sum": (1, 100, 10_000),
    "rms": (0.04, 0.4, 4),
    "sign": (0.04, 0.4, 4),
}
"""Low, middle and high, by scale. With a batch of n, "sum" at s is "mean" at s·n: the two
interleave to one series of decades."""

LEVELS = ("low", "middle", "high")
META_STEPS, META_SIZES = 3, (100, 1000)
MORE_STEP_SIZES = (1, 16, 40)
"""Around the default reading, beside the factorial's."""

NAMED = {"default": DEFAULT, "paper": PAPER}


def design() -> list[DesignPoint]:
    """Returns the full factorial: which row stands for which combination of levels.

    The derivatives with respect to λ and to its logit have one sign, λ(1 − λ) being positive: both
    combinations are one row.
    """
    points = []
    for projection, gradient, scale in product(PROJECTIONS, GRADIENTS, STEP_SIZES):
        for level, step_size in zip(LEVELS, STEP_SIZES[scale], strict=True):
            names = (projection, scale) if scale == "sign" else (projection, gradient, scale)
            levels = {
                "projection": projection,
                "gradient": gradient,
                "scale": scale,
                "step size": level,
            }
            points.append(DesignPoint(levels, "-".join((*names, f"{step_size:g}"))))
    return points


def rows() -> list[StudyRow]:
    """Returns references, the factorial, then what is varied around each named reading."""
    mixup = _per_sample(1.0)
    table = [
        NONE,
        mixup,
        _per_sample(0.2),
        SEARCHED,
        with_meta_images(NONE),
        with_meta_images(mixup),
    ]
    known = _factorial()
    table += [_learned(key, reading) for key, reading in known.items()]
    for name, reading in NAMED.items():
        if reading not in known.values():
            table.append(_learned(name, reading))
        table += _one_at_a_time(name, reading)
    [default] = [r for r in table if r.policy == _policy(DEFAULT) and not r.training]
    return [*table, *controls(default, plain=True)]


def _per_sample(alpha: float) -> StudyRow:
    """Returns MixUp with a λ for each sample, as learned rows draw λ0."""
    drawn = renamed(beta(alpha), label=f"MixUp (α = {alpha:g}, per sample)")
    return replace(drawn, recipe=Beta(alpha=alpha, per_sample=True))


def _factorial() -> dict[str, Reading]:
    """Returns the readings of the factorial by key, at the default reading's other settings."""
    readings = {}
    for point in design():
        scale = point.levels["scale"]
        levels: dict[str, Any] = {
            "projection": PROJECTIONS[point.levels["projection"]],
            "gradient": point.levels["gradient"],
            "scale": scale,
            "step_size": float(STEP_SIZES[scale][LEVELS.index(point.levels["step size"])]),
        }
        readings[point.key] = replace(DEFAULT, **levels)
    return readings


def _one_at_a_time(name: str, reading: Reading) -> list[StudyRow]:
    """Returns rows with one factor varied around a named reading, all else as in it."""
    changed: dict[str, dict[str, Any]] = {
        "start-0.2": {"init_alpha": 0.2},
        "start-4": {"init_alpha": 4.0},
        "inner-optimizer": {"inner_step": "optimizer"},
        f"meta-steps-{META_STEPS}": {"meta_steps": META_STEPS},
    }
    if name == "default":
        changed |= {f"step-{size}": {"step_size": float(size)} for size in MORE_STEP_SIZES}
    varied = [
        _learned(f"{name}-{key}", replace(reading, **changes), f"{name}: {key.replace('-', ' ')}")
        for key, changes in changed.items()
        if replace(reading, **changes) != reading
    ]
    for size in META_SIZES:
        label, training = f"{name}: {size} meta-validation images", {"meta_size": size}
        varied.append(_learned(f"{name}-meta-{size}", reading, label, training))
    # As many steps as the rows +meta that it is judged against.
    shared = {"meta_in_training": True, "equal_steps": True}
    label = f"{name}: meta-validation images train"
    return [*varied, _learned(f"{name}-overlap", reading, label, shared)]


def _learned(
    key: str, reading: Reading, label: str = "", training: Mapping[str, Any] | None = None
) -> StudyRow:
    names = [name for name, named in NAMED.items() if named == reading and not label]
    label = (label or key.replace("-", ", ")) + "".join(f" ({name})" for name in names)
    setting = ", ".join(f"{field}={value}" for field, value in vars(reading).items())
    return row(key, label, setting, "learned", _policy(reading), **(training or {}))


def _policy(reading: Reading) -> PolicyConfig:
    return LearnedConfig(reading=reading)


def ranked(outcome: Outcome) -> Extra:
    """Returns the ranked table and the main effects, after the report's table."""
    return readings_report(outcome, design())


main = partial(run_study, "readings", rows(), __doc__, extras=[ranked])

if __name__ == "__main__":
    sys.exit(main())
