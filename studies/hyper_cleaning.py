"""Data hyper-cleaning as the public suite benchopt/benchmark_bilevel defines it.

Softmax regression W on images whose labels are partly random, each image i with a weight σ(x_i);
the x are to make the loss on clean validation images least (github.com/benchopt/benchmark_bilevel,
datasets/mnist.py):

    min over x of  f(W*(x)) = mean over validation of the cross-entropy at W*(x)
    W*(x) = argmin over W of g(W, x) = mean_i σ(x_i) ℓ_i(W) + 0.2 ‖W‖²

20,000 training and 5,000 validation images, no intercept, pixels standardized by the training
images, x = −2 and W = 0 at first; each training label is replaced by a random one of all classes
with probability `--ratio` (0.5, 0.7 and 0.9 in the suite). With `--dataset mnist` images, labels
and random draws are the suite's own: its published solvers can be set beside these rows.

    persistent-weights   `core.PersistentWeights`: x moved by the hypergradient of one step
    l2rw                 `core.LearningToReweight`: weights of each batch, no x
    meta-weight-net      `core.MetaWeightNet`: weights by the loss, no x
    soba                 the suite's SOBA (Dagréou et al. 2022) with the suite's best settings
    start                nothing learned: x = −2 throughout
    oracle               σ(x_i) = 1 for labels that are right, 0 for wrong ones

Columns: test_error and val_error in percent at the W that the solver leaves (the suite calls them
test_accuracy and value, as parts of 1); value, val_error_at_optimum and test_error_at_optimum: f
and both errors at W*(x), found to rounding by L-BFGS; detection: how often a random wrong label has
a lower weight than a random right one. What has no x has none of these four.

    python studies/hyper_cleaning.py --dataset fashion_mnist
    python studies/hyper_cleaning.py --dataset mnist --ratio 0.9 --output cleaning

Cost: about a minute on two idle cores at the suite's size and five passes.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

import core.data
from core.lazy import pandas as pd
from core.lazy import torch
from hpo.bench.hyper_cleaning import SOLVERS, draw_problem, report
from hpo.command_line.flags import command, folder, program, require_counts
from hpo.command_line.statuses import INTERRUPTED, UNUSABLE
from hpo.report.markdown import padded_table
from hpo.storage import output_folder
from hpo.storage.atomic import write_csv


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the solvers; returns the exit status."""
    about, _, _ = __doc__.partition("\n\n")
    parser = command(program("hyper_cleaning"), __doc__)
    add = parser.add_argument
    add(
        "--dataset",
        default="fashion_mnist",
        choices=sorted(core.data.DATASETS),
        help="(default: %(default)s)",
    )
    add("--data-root", type=folder, help="the folder of data sets, in torchvision's own layout")
    add("--ratio", type=float, default=0.5, help="part of labels replaced (default: %(default)s)")
    add("--train-size", type=int, default=20_000, help="training images (default: %(default)s)")
    add("--val-size", type=int, default=5_000, help="validation images (default: %(default)s)")
    add("--epochs", type=int, default=5, help="passes over them (default: %(default)s)")
    add("--solvers", default=",".join(SOLVERS), help="names, by commas (default: all)")
    add("--output", type=folder, help="a folder for hyper_cleaning.csv")
    given = parser.parse_args(arguments)
    names = given.solvers.split(",")
    try:
        _check(given, names)
        source = core.data.load_source(given.dataset, root=given.data_root)
        whole = source.images("train"), source.images("test")
        parts = [next(iter(part.batches([torch.arange(len(part))]))) for part in whole]
        train, test = ((x.numpy(), y.numpy()) for x, y in parts)
        problem = draw_problem(
            train, test, ratio=given.ratio, train_size=given.train_size, val_size=given.val_size
        )
        if given.output is not None:
            with output_folder.locked(given.output):  # or it would fail in the end
                pass
    except (ValueError, OSError) as error:
        print(f"hyper_cleaning: error: {error}", file=sys.stderr)
        return UNUSABLE
    torch.manual_seed(0)
    try:
        lines = [
            {"solver": name, **report(problem, SOLVERS[name](problem, given.epochs))}
            for name in names
        ]
    except KeyboardInterrupt:
        print("hyper_cleaning: interrupted; nothing is kept", file=sys.stderr)
        return INTERRUPTED
    frame = pd.DataFrame(lines).round(4)
    print(f"{about}\n{given.dataset}, {given.ratio:g} of {given.train_size} labels replaced\n")
    shown = frame.astype(object).where(frame.notna(), "–").astype(str)
    print(padded_table(list(shown.columns), shown.to_numpy().tolist()))
    if given.output is not None:
        write_csv(given.output / "hyper_cleaning.csv", frame)
    return 0


def _check(given: Namespace, names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in SOLVERS]
    if unknown:
        raise ValueError(f"unknown solver {unknown[0]!r}; choose among {', '.join(SOLVERS)}")
    if not 0 <= given.ratio <= 1:
        raise ValueError(f"--ratio must lie in [0, 1], got {given.ratio:g}")
    require_counts(given, "train_size", "val_size", "epochs")


if __name__ == "__main__":
    sys.exit(main())
