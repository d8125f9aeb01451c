"""What a whole study would cost on so many GPUs, from measured constants, before anything is run.

The work of a training is counted in floating-point operations of plain steps and multiplied by what
its method takes in units of such a step; a stated throughput turns that into time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from core import soft_cross_entropy
from core.data import DATASETS
from core.models import build_model
from core.policies import NoMix, PolicyConfig
from core.training.config import TrainingConfig
from hpo.bench.cost.counting import flops
from hpo.bench.estimate.schedule import Timed
from hpo.search.protocol import SearchSettings
from hpo.study.rows import EVENLY, StudyRow, grid_cost

META_STAGE_STEP = {"cnn": 4.58, "digits_cnn": 4.58}
META_STAGE_STEP_ELSE = 4.53
"""Time of a step with a meta stage over that of a plain one, `python studies/cost.py`, engine
"auto": CNN 28×28, n = 128, m = 100, and PreActResNet-18 32×32, n = m = 64, two CPU cores."""

HALVED = 0.5
"""Of the epochs of a search with successive halving those that are trained, roughly."""

RECORD_BYTES = 450
"""Of a training's stored record, for each epoch: 67 kB for 150 epochs of `make table2`."""

TRACKING_BYTES = 2900
"""Of the MLflow database, for each epoch of a training: 23 MB for 54 trainings of 150 epochs."""

_NONE = NoMix()


@dataclass(frozen=True)
class Column:
    """A data set of a table, with the training that its rows share.

    Attributes:
        training: its policy and seed are replaced.
        label: of the column; trainings on one data set with other labels are other columns.
    """

    training: TrainingConfig
    label: str


@dataclass(frozen=True)
class Table:
    """A table to be planned: rows × columns × seeds, as `hpo.study.plan.Plan` trains them.

    Attributes:
        name: of its study.
        rows: as the study declares them.
        columns: its data sets.
        search: of the search for α, where a row needs one.
    """

    name: str
    rows: Sequence[StudyRow]
    columns: Sequence[Column]
    search: SearchSettings


@dataclass(frozen=True)
class Job:
    """Trainings that one GPU does one after another.

    Attributes:
        key: unique; after: key of the job whose result it waits for.
        table, row, column: where it belongs.
        trainings: how many; a search that spends a budget has about as many.
        epochs: of all of them together.
        flops: of all of them together, a multiplication with its addition counted as 2.
        parameters: of the model.
    """

    key: str
    table: str
    row: str
    column: str
    trainings: int
    epochs: float
    flops: float
    parameters: int
    after: str | None = None

    def timed(self, flops_per_second: float) -> Timed:
        """The job as one of `hpo.bench.estimate.schedule`."""
        return Timed(self.key, self.flops / flops_per_second, self.after)


@lru_cache
def plain_step(
    model: str, width: int | None, channels: int, size: int, classes: int
) -> tuple[float, int]:
    """FLOPs of a plain training step for each image, forward and backward, and the parameters.

    Counted where the operations are dispatched, on tensors without data: nothing is computed.
    """
    with torch.device("meta"):
        network = build_model(
            model, in_channels=channels, num_classes=classes, image_size=size, width=width
        )
        x, y = torch.empty(2, channels, size, size), torch.empty(2, classes)

    def step() -> None:
        soft_cross_entropy(network(x), y).backward()

    parameters = sum(parameter.numel() for parameter in network.parameters())
    return flops(step) / 2, parameters


def multiple(policy: PolicyConfig, model: str) -> float:
    """Time of a step under the policy over that of a plain one: measured where it has a meta stage.

    A stage at every k-th step costs its share; the rest is counted in samples
    (`core.policies.PolicyConfig.cost`).
    """
    return policy.cost_with(META_STAGE_STEP.get(model, META_STAGE_STEP_ELSE) - 1.0)


def training_flops(
    training: TrainingConfig, policy: PolicyConfig, semi_weight: float = 1.0
) -> float:
    """Of one whole training: its steps, validation after each epoch, the test at the end.

    Args:
        training: of a named data set; its own policy is not read.
        policy: that it trains under.
        semi_weight: of a semi-supervised method: a step in units of one with pseudo-labels, which
            sends a labelled and an unlabelled batch forward and back.

    Raises:
        ValueError: the data set is a folder, whose size is not known here.
    """
    if training.dataset not in DATASETS:
        raise ValueError(f"{training.dataset!r} is no named data set; choose {', '.join(DATASETS)}")
    spec = DATASETS[training.dataset]
    size = training.image_size or spec.image_size
    per_image, _ = plain_step(
        training.model, training.width, spec.in_channels, size, spec.num_classes
    )
    images = float(training.train_size or spec.train_size - training.meta_size)
    if training.semi is not None:
        unlabelled = images - training.semi.labelled
        batch = training.semi.unlabelled_batch or training.batch_size
        images = unlabelled * (1 + training.batch_size / batch) * semi_weight
    elif training.meta_in_training:
        images += training.meta_size
    evaluated = training.epochs * training.meta_size + spec.test_size
    stepped = training.epochs * images * multiple(policy, training.model)
    return per_image * (stepped + evaluated / 3)  # forward alone is a third


def jobs(table: Table, seeds: int) -> Iterator[Job]:
    """Everything that the table trains.

    A frozen row waits for the row that it draws from, a searched row for its search. A search is
    one job, since its trials run one after another.
    """
    policies = {row.row.key: row.policy or _NONE for row in table.rows}
    for column in table.columns:
        search = f"{table.name}/{column.label}/search"
        if any(row.searched for row in table.rows):
            trials = table.search.trials or 0
            share = HALVED if table.search.halving else 1.0
            yield _job(
                search,
                table,
                "search for α",
                column,
                column.training,
                _NONE,
                trials,
                trials * share,
            )
        for row in table.rows:
            training = replace(column.training, **row.settings(column.training.dataset))
            for seed in range(seeds):
                after, policy = None, row.policy or _NONE
                if row.searched:
                    after = search
                elif row.frozen_from is not None:
                    after = f"{table.name}/{column.label}/{row.frozen_from}/{seed}"
                    policy = policies[row.frozen_from].frozen(EVENLY)
                trainings, units = 1, 1.0
                if row.strategy is not None:
                    budget = grid_cost(table.rows)
                    trainings, units = row.strategy.expected(budget), row.strategy.cost(budget)
                yield _job(
                    f"{table.name}/{column.label}/{row.row.key}/{seed}",
                    table,
                    row.row.key,
                    column,
                    training,
                    policy,
                    trainings,
                    units,
                    row.semi_weight,
                    after,
                )


def _job(
    key: str,
    table: Table,
    row: str,
    column: Column,
    training: TrainingConfig,
    policy: PolicyConfig,
    trainings: int,
    units: float,
    semi_weight: float = 1.0,
    after: str | None = None,
) -> Job:
    spec = DATASETS[training.dataset]
    size = training.image_size or spec.image_size
    _, parameters = plain_step(
        training.model, training.width, spec.in_channels, size, spec.num_classes
    )
    return Job(
        key=key,
        table=table.name,
        row=row,
        column=column.label,
        trainings=trainings,
        epochs=units * training.epochs,
        flops=units * training_flops(training, policy, semi_weight),
        parameters=parameters,
        after=after,
    )
