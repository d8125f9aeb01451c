"""This module counts the work of a whole study before anything is run.

The work of a training is counted in floating-point operations of plain steps, and multiplied by
what its method takes in units of such a step, as measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import core.models
from core.data import DATASETS
from core.lazy import pandas as pd
from core.lazy import torch
from core.mixing.batch import soft_cross_entropy
from core.policies import NoMix, PolicyConfig
from core.training.config import TrainingConfig
from hpo.search.protocol import SearchSettings
from hpo.study.rows import EVENLY, StudyRow, grid_cost

META_STAGE_STEP = 4.53
"""Time of a step with a meta stage over that of a plain one, `python studies/cost.py`, engine
"auto", two CPU cores: PreActResNet-18 on 32×32, n = m = 64 (4.58: CNN on 28×28, n = 128, m = 100).
"""

HALVED = 0.5
"""Part of the epochs of a search with successive halving that is trained, roughly."""

_NONE = NoMix()


@dataclass(frozen=True)
class Table:
    """A table to be planned: rows × columns × seeds, as `hpo.study.plan.Plan` trains them.

    Attributes:
        name: of its study.
        rows: as the study declares them.
        columns: by label the training that its rows share, whose policy and seed are replaced; a
            data set with two numbers of labels, or two networks, is two columns.
        search: of the search for α, where a row needs one.
    """

    name: str
    rows: Sequence[StudyRow]
    columns: Mapping[str, TrainingConfig]
    search: SearchSettings


@lru_cache
def plain_step(
    model: str, width: int | None, channels: int, size: int, classes: int
) -> tuple[float, int]:
    """Returns FLOPs of a plain training step for each image, forward and backward, and the number
    of parameters.

    Counted where the operations are dispatched, on tensors without data: nothing is computed.
    """
    with torch.device("meta"):
        network = core.models.build_model(
            model, in_channels=channels, num_classes=classes, image_size=size, width=width
        )
        x, y = torch.empty(2, channels, size, size), torch.empty(2, classes)

    def step() -> None:
        soft_cross_entropy(network(x), y).backward()

    parameters = sum(parameter.numel() for parameter in network.parameters())
    from hpo.bench.cost.counting import flops

    return flops(step) / 2, parameters


def training_flops(
    training: TrainingConfig, policy: PolicyConfig, semi_weight: float = 1.0
) -> tuple[float, int]:
    """Returns FLOPs of one whole training (its steps, validation after each epoch, the test at the
    end), a multiplication with its addition counted as 2, and the number of parameters.

    Args:
        training: of a named data set; its own policy is not read.
        policy: that it trains under. Its step takes what was measured where it has a meta stage, of
            which each k-th step costs its share, and is else counted in samples.
        semi_weight: of a semi-supervised method: a step in units of one with pseudo-labels, which
            sends a labeled and an unlabeled batch forward and back.

    Raises:
        ValueError: the data set is a folder, whose size is not known here.
    """
    if training.dataset not in DATASETS:
        raise ValueError(f"{training.dataset!r} is no named data set; choose {', '.join(DATASETS)}")
    spec = DATASETS[training.dataset]
    size = training.image_size or spec.image_size
    per_image, parameters = plain_step(
        training.model, training.width, spec.in_channels, size, spec.num_classes
    )
    images = float(training.train_size or spec.train_size - training.meta_size)
    if training.semi is not None:
        unlabeled = images - training.semi.labelled
        batch = training.semi.unlabelled_batch or training.batch_size
        images = unlabeled * (1 + training.batch_size / batch) * semi_weight
    elif training.meta_in_training and not training.equal_steps:
        images += training.meta_size
    evaluated = training.epochs * training.meta_size + spec.test_size
    stepped = training.epochs * images * policy.cost_with(META_STAGE_STEP - 1.0)
    return per_image * (stepped + evaluated / 3), parameters  # forward alone is a third


def planned_jobs(table: Table, seeds: int) -> pd.DataFrame:
    """Returns everything that the table trains, a line for each column and row, and
    for each search.

    Columns of the frame: table, column, row; count, how many jobs of a GPU it is; of one job
    trainings, epochs, flops and parameters; chain, its FLOPs with those of the job it waits for. A
    frozen row waits for the row that it draws from, a searched row for its search. A search is one
    job, since its trials run one after another; one that spends a budget is a job for each seed.
    """
    return pd.DataFrame([line for label in table.columns for line in _lines(table, label, seeds)])


def _lines(table: Table, label: str, seeds: int) -> Iterator[dict[str, object]]:
    base, work = table.columns[label], {"": 0.0}  # FLOPs of a job by its key

    def job(
        key: str,
        training: TrainingConfig,
        policy: PolicyConfig,
        *,
        count: int = seeds,
        trainings: int = 1,
        units: float = 1.0,
        semi_weight: float = 1.0,
        after: str = "",
    ) -> dict[str, object]:
        each, parameters = training_flops(training, policy, semi_weight)
        work[key] = units * each
        return {
            "table": table.name,
            "column": label,
            "row": key,
            "count": count,
            "trainings": trainings,
            "epochs": units * training.epochs,
            "flops": work[key],
            "parameters": parameters,
            "chain": work[key] + work[after],
        }

    policies = {row.row.key: row.policy or _NONE for row in table.rows}
    for row in table.rows:
        training = row.training_of(base)
        planned = partial(job, row.row.key, training, semi_weight=row.semi_weight)
        if row.searched is not None:
            search = f"search of {row.row.search}"
            if search not in work:
                replicates = table.search.replicates
                trainings = (table.search.trials or 0) * replicates
                units = trainings * (HALVED if table.search.halving and replicates == 1 else 1.0)
                shared = partial(job, search, base, row.searched.policy, count=1)
                yield shared(trainings=trainings, units=units, semi_weight=row.semi_weight)
            yield planned(row.searched.policy, after=search)
        elif row.frozen_from is not None:
            policy = policies[row.frozen_from].frozen(EVENLY)
            yield planned(policy, after=row.frozen_from)
        elif row.filtered_by is not None:
            yield planned(row.filtered_by.policy, after=row.row.needs[0])
        elif row.strategy is not None:
            trainings, units = row.strategy.expected(grid_cost(table.rows))
            yield planned(_NONE, trainings=trainings, units=units)
        else:
            yield planned(policies[row.row.key])
