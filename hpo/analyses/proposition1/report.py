"""This module writes what a study's report says of Proposition 1: tables, sentences, figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from core.analysis.known import Known, known_networks
from core.lazy import pandas as pd
from hpo.analyses.proposition1.comparison import (
    REFERENCE,
    compare_curvature,
    compare_over_training,
    looks_table,
)
from hpo.analyses.proposition1.conclusions import conclusions
from hpo.analyses.proposition1.figure import curvature_figure
from hpo.report.contrasts import LEVEL, mean_text
from hpo.report.history import finished_trainings
from hpo.report.markdown import number, padded_table, probability
from hpo.report.outcome import Extra, Outcome
from hpo.report.style import save_figure
from hpo.storage.atomic import write_csv

_HEADER = (
    "method", "κ", "κ / κ without mixing", "p (Holm)", "largest ratio", "of its κ, at most",
    "median", "above", "left side", "ℓ1 loss", "ℓ1 above",
)  # fmt: skip


def proposition1_report(outcome: Outcome) -> Extra:
    """Writes `STUDY-looks.csv`, `-curvature.csv`, `-changes.csv`, `-curvature.png`, tables and
    sentences, and metrics. A study whose trainings were not looked at has no such part."""
    looks = looks_table(finished_trainings(outcome))
    if looks.empty:
        return Extra()
    rows = [row.row for row in outcome.plan.rows]
    labels = outcome.labels
    compared, changed = compare_curvature(looks, rows), compare_over_training(looks, rows)
    files = [*map(outcome.file, ("looks.csv", "curvature.csv", "changes.csv", "curvature.png"))]
    for path, frame in zip(files, (looks, compared, changed), strict=False):
        write_csv(path, frame, "%.6g")
    save_figure(curvature_figure(looks, labels), files[-1])
    text = curvature_markdown(looks, compared, changed, labels, known_networks())
    return Extra(text, files, _metrics(compared))


def curvature_markdown(
    looks: pd.DataFrame,
    compared: pd.DataFrame,
    changed: pd.DataFrame,
    labels: Mapping[str, str],
    known: Sequence[Known],
) -> str:
    """Returns the tables for people, each followed by what it says.

    Args:
        looks: of `hpo.analyses.proposition1.comparison.looks_table`.
        compared: of `hpo.analyses.proposition1.comparison.compare_curvature`.
        changed: of `hpo.analyses.proposition1.comparison.compare_over_training`.
        labels: of the rows, by key.
        known: the measurements where κ is known.
    """
    parts = ["## Proposition 1", "### Where κ is known", _known_table(known)]
    for dataset, here in compared.groupby("dataset", sort=False):
        for output, table in here.groupby("output", sort=False):
            lines = table.to_dict("records")
            seen = looks[(looks["dataset"] == dataset) & (looks["output"] == output)]
            parts += [
                f"### {dataset}: f is a {output}",
                padded_table(_HEADER, [_cells(line, labels) for line in lines]),
                "\n".join(_sentences(lines, labels)),
                "Median part of its own κ that a pair attains, by epoch:",
                _shares_table(seen, labels),
            ]
        concluded = conclusions(here, changed[changed["dataset"] == dataset], labels)
        parts += [f"### {dataset}: what one may conclude", "\n".join(concluded)]
    return "\n\n".join([*parts, _LEGEND])


def _shares_table(looks: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """Returns the mean over seeds ± half of the 95 % interval, of one data set and output."""
    epochs = sorted(looks["epoch"].unique())
    lines = []
    for key, label in labels.items():
        shares = looks[looks["method"] == key].groupby("epoch")["share_median"]
        means = {epoch: mean_text(values) for epoch, values in shares}
        if means:
            lines.append([label, *(means.get(epoch, "–") for epoch in epochs)])
    return padded_table(("method", *(f"epoch {epoch}" for epoch in epochs)), lines)


def _known_table(known: Sequence[Known]) -> str:
    lines = [
        (
            network.name,
            f"{network.kappa:.5g}",
            f"{network.estimate:.5g}",
            f"{network.ratio:.5g}",
            f"{network.violations} of {network.looked_at}",
        )
        for network in known
    ]
    return padded_table(("network", "κ", "estimate", "largest ratio", "(P2) violated"), lines)


def _cells(line: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    quotient = number(line["kappa_over_none"], "{:.3g}")
    if not math.isnan(line["ci_low"]):
        quotient += f" [{line['ci_low']:.2g}, {line['ci_high']:.2g}]"
    return [
        labels[line["method"]],
        number(line["kappa"], "{:.3g}"),
        quotient,
        probability(line["p_holm"]),
        number(line["ratio"], "{:.3g}"),
        number(line["share"], "{:.2f}"),
        number(line["share_median"], "{:.2f}"),
        str(line["above"]),
        number(line["gap"], "{:.3g}"),
        number(line["mixup_l1"], "{:.3g}"),
        number(line["l1_above_first"], "{:.0f} % → ", missing="")
        + number(line["l1_above"], "{:.0f} %"),
    ]


def _sentences(lines: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> list[str]:
    """Returns what the lines of one data set and output say."""
    above, share = sum(line["above"] for line in lines), max(line["share"] for line in lines)
    verdict = "no pair violates it" if not above else f"{above} pairs are above their estimate"
    sentences = [
        f"- (P2): {verdict}; a pair attains at most {share:.2f} of the κ of its own segment."
    ]
    groups: dict[str, list[str]] = {}
    for line in lines:
        if line["method"] != REFERENCE and not math.isnan(line["p_holm"]):
            words = "not told apart from that without mixing by these seeds for"
            if line["p_holm"] < LEVEL:
                size = "smaller" if line["kappa_over_none"] < 1 else "larger"
                words = f"{size} than without mixing, with p (Holm) < {LEVEL}, for"
            groups.setdefault(words, []).append(labels[line["method"]])
    return sentences + [f"- κ is {words} {', '.join(names)}." for words, names in groups.items()]


def _metrics(compared: pd.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    """Returns the numbers for the summary run of each row and data set."""
    metrics: dict[tuple[str, str], dict[str, float]] = {}
    for line in compared.to_dict("records"):
        named = {
            f"{line['output']}_{name}": float(line[name])
            for name in ("kappa", "kappa_over_none", "ratio", "share", "above")
            if not math.isnan(line[name])
        }
        metrics.setdefault((line["method"], line["dataset"]), {}).update(named)
    return metrics


_LEGEND = "\n".join(
    [
        "- κ: largest spectral norm of the Hessian of f with respect to the image at points of "
        "the segments between pairs of training images, by power iteration, so from below. "
        "Geometric mean over seeds after the last epoch; beside it its quotient to that of the "
        "row without mixing, with 95 % interval over seeds, p adjusted by Holm's method for the "
        "comparisons on one data set, both outputs.",
        "- largest ratio: of the left side of (P2) to λ(1−λ)‖x − x′‖²/2, which (P2) bounds by κ. "
        "of its κ: the largest ratio of a pair over the κ of its own segment, at most (over all "
        "epochs and seeds) and median (after the last epoch). above: pairs where it is above 1, "
        "all epochs and seeds.",
        "- left side: its mean after the last epoch. ℓ1 loss: of MixUp, with the labels in place "
        "of the predictions; ℓ1 above: in how many percent of the mixed images it is above the "
        "bound λ(1−λ)·κ/2·‖x − x′‖², which it need not keep, after the first epoch → the last.",
    ]
)
