"""Finding wrong labels: the scores of one training beside cleanlab on cross-validation.

The paper has no such table. Part of the training labels are made wrong, by default 40 % of each
class; each method orders the training images by how good their labels look, and the table says how
well that finds the wrong ones: AUC, precision among as many images as there are wrong labels, and
among the first 100. The methods, and what each may use:

    scores                        one training with persistent scores, which reads the clean
                                  meta-validation images to learn
    placebo                       the same, each image with the learned score of another one
    cleanlab                      predictions for each image by a plain training of the same network
                                  and epochs that did not see it: 5 folds, 5 trainings; cleanlab's
                                  label quality in its default setting. Without the clean images
    cleanlab + clean images       the same, the clean images added to each of the 5 trainings
    clean images alone            one plain training on the clean images alone, for at least as many
                                  steps; the label quality (its order is that of the loss)

The last two are there because scores read the clean images: without them the comparison would be
unfair to cleanlab. The main table gives the test errors of all trainings, each fold a row.

Cost of one seed: a training without MixUp is the unit; two with scores of about four units each;
ten for the folds, each of 0.8 of a unit and what the clean images add (Fashion-MNIST: 0.1; digits,
with twice as many clean as training images: 2); one of a unit on the clean images (digits: 2). With
five seeds on two idle CPU cores: digits about two minutes, Fashion-MNIST about ten. Needs cleanlab:

    pip install 'metamixup-hpo[label-errors]'
    python studies/label_errors.py
    python studies/label_errors.py --dataset fashion_mnist --label-noise 0.4 --seeds 5
    python studies/label_errors.py --rows none,scores --dataset folder:IMAGES --label-noise 0

The last one looks for the bad labels of a data set of one's own: `label_errors-scores-...` in the
output folder are the list and the pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from core.data import DATASETS
from core.policies import NoMix, ScoresConfig
from hpo.analyses.labels.comparison import Method, label_comparison, require_cleanlab
from hpo.command_line import Options, parse, with_settings
from hpo.run import UNUSABLE, run_study
from hpo.study import presets
from hpo.study.named_rows import NONE, row
from hpo.study.rows import StudyRow, controls

FOLDS = 5
DEFAULTS = {"label_noise": 0.4, "seeds": 5}
"""Of flags that other studies start elsewhere."""

_FOLDS = tuple(f"fold-{fold}" for fold in range(1, FOLDS + 1))
_CLEAN_FOLDS = tuple(f"fold-clean-{fold}" for fold in range(1, FOLDS + 1))
_PREDICT = {*_FOLDS, *_CLEAN_FOLDS, "clean"}

METHODS = (
    Method("scores", "Scores", ("scores",)),
    Method("placebo", "Placebo", ("scores-placebo",)),
    Method("cleanlab", "cleanlab", _FOLDS),
    Method("cleanlab-clean", "cleanlab + clean images", _CLEAN_FOLDS),
    Method("clean", "clean images alone", ("clean",)),
)
"""What is compared, the first with each of the others."""


def rows(clean_epochs: int = 1) -> list[StudyRow]:
    """Returns the rows; the one on clean images alone trains for `clean_epochs` epochs."""
    scores = row("scores", "Scores", "scores", "learned", ScoresConfig())
    placebo, _ = controls(scores)
    table = [NONE, scores, placebo]
    for keys, clean in ((_FOLDS, {}), (_CLEAN_FOLDS, {"meta_in_training": True})):
        for fold, key in enumerate(keys):
            label = f"Without fold {fold + 1} of {FOLDS}" + (", with clean images" if clean else "")
            table.append(_plain(key, label, folds=FOLDS, fold=fold, **clean))
    clean_alone = {"folds": 1, "meta_in_training": True, "epochs": clean_epochs}
    return [*table, _plain("clean", "Clean images alone", **clean_alone)]


def clean_epochs(options: Options) -> int:
    """Returns the epochs on clean images alone that are as many steps as the others take, or more.

    Of several data sets the one that needs most decides. Where the number of training images is
    only known from the files, it is that of the others' epochs.
    """
    return max(_epochs(options, dataset) for dataset in options.datasets)


def _epochs(options: Options, dataset: str) -> int:
    training = with_settings(presets.training(dataset, options.preset), options.overrides)
    size = training.train_size
    if size is None and dataset in DATASETS:
        size = DATASETS[dataset].train_size - training.meta_size
    return max(training.epochs, -(-training.epochs * (size or 0) // training.meta_size))


def _plain(key: str, label: str, **training: int) -> StudyRow:
    return row(key, label, key, "extra", NoMix(), **training)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the study; returns the exit status."""
    try:
        options = parse("label_errors", __doc__, arguments, defaults=DEFAULTS)
        if options.rows is None or _PREDICT & {*options.rows}:
            require_cleanlab()
        table = rows(clean_epochs(options))
    except (ValueError, ImportError) as error:
        print(f"label_errors: error: {error}", file=sys.stderr)
        return UNUSABLE
    extras = [label_comparison(METHODS)]
    return run_study("label_errors", table, __doc__, arguments, extras=extras, defaults=DEFAULTS)


if __name__ == "__main__":
    sys.exit(main())
