"""The plan's counts against sums made by hand, and FLOPs against a count by layers."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from core.models import build_model
from core.policies import AdaMixUpConfig, LearnedConfig, NoMix, PolicyConfig
from core.semi_supervised.config import SemiSupervisedConfig
from core.training.config import TrainingConfig
from hpo.bench.estimate import Table, plan_report, planned_jobs
from hpo.bench.estimate.work import plain_step, training_flops
from hpo.search.protocol import SearchSettings
from hpo.search.spaces import BETA_ALPHA
from hpo.search.strategies import Listed
from hpo.study.recipes import SEARCHED_ALPHA, FrozenFrom, Recipe, Searched
from hpo.study.rows import Row, SemiRow, StudyRow

NONE = NoMix()
LEARNED = LearnedConfig()
TRAINING = TrainingConfig(
    "digits", "digits_cnn", NONE, epochs=10, train_size=1000, meta_size=90, batch_size=50
)
PER_IMAGE, PARAMETERS = plain_step("digits_cnn", None, 1, 8, 10)
EVALUATED = (10 * 90 + 500) / 3  # a forward pass is a third of a step


def layer_flops(model: nn.Module, x: torch.Tensor) -> int:
    """Forward 2 for each weight used; backward that for the weights, and again for the input, which
    the first layer need not know."""
    layers: list[int] = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor], out: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d | nn.Linear)
        places = out[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
        layers.append(2 * module.weight.numel() * places)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(x)
    return 3 * sum(layers) - layers[0]


@pytest.mark.parametrize(("name", "channels", "size"), [("digits_cnn", 1, 8), ("cnn", 1, 28)])
def test_flops_of_a_step_are_those_of_its_layers(name: str, channels: int, size: int) -> None:
    model = build_model(name, in_channels=channels, num_classes=10, image_size=size)
    counted, parameters = plain_step(name, None, channels, size, 10)
    assert counted == layer_flops(model, torch.randn(1, channels, size, size))
    assert parameters == sum(p.numel() for p in model.parameters())


def test_the_network_of_the_paper_has_its_published_size() -> None:
    """PreActResNet-18 on 32×32: 11.17 million parameters, 0.56 billion multiplications forward."""
    counted, parameters = plain_step("preact_resnet18", None, 3, 32, 10)
    assert parameters == pytest.approx(11.17e6, rel=1e-3)
    assert counted == pytest.approx(3 * 2 * 0.56e9, rel=0.02)


SEMI = SemiSupervisedConfig("pseudo-label", 100)


@pytest.mark.parametrize(
    ("training", "policy", "images"),
    [
        (TRAINING, NONE, 1000),
        (TRAINING, LEARNED, 1000 * 4.53),
        (TRAINING, LearnedConfig(every=2), 1000 * (1 + 3.53 / 2)),
        (TRAINING, AdaMixUpConfig(), 1000 * 3),
        (replace(TRAINING, train_size=None), NONE, 1297 - 90),
        (replace(TRAINING, meta_in_training=True), NONE, 1000 + 90),
        # 900 unlabeled images, and beside each of them one labeled, or two.
        (replace(TRAINING, semi=SEMI), NONE, 900 * 2),
        (replace(TRAINING, semi=replace(SEMI, unlabelled_batch=25)), NONE, 900 * 3),
    ],
)
def test_flops_of_a_training_by_hand(
    training: TrainingConfig, policy: PolicyConfig, images: float
) -> None:
    work, parameters = training_flops(training, policy)
    assert work == pytest.approx(PER_IMAGE * (10 * images + EVALUATED))
    assert parameters == PARAMETERS


def test_a_folder_cannot_be_planned() -> None:
    with pytest.raises(ValueError, match="no named data set"):
        training_flops(replace(TRAINING, dataset="folder:mine"), NONE)


def row(key: str, recipe: Recipe, semi: SemiRow | None = None) -> StudyRow:
    return StudyRow(Row(key, key, key, "extra"), recipe, semi=semi)


def planned(
    *rows: StudyRow, training: TrainingConfig = TRAINING, replicates: int = 1
) -> pd.DataFrame:
    search = SearchSettings(trials=6, replicates=replicates)
    table = Table("table", rows, {"digits": training}, search)
    return planned_jobs(table, seeds=2).set_index("row")


def test_jobs_wait_for_what_they_need() -> None:
    jobs = planned(
        row("none", NONE),
        row("searched", SEARCHED_ALPHA),
        row("learned", LEARNED),
        row("frozen", FrozenFrom("learned")),
    )
    plain, learned = (PER_IMAGE * (10_000 * k + EVALUATED) for k in (1, 4.53))
    # Half of the search's epochs are stopped early.
    assert list(jobs.index) == ["none", "search of searched", "searched", "learned", "frozen"]
    assert list(jobs["count"]) == [2, 1, 2, 2, 2]
    assert list(jobs["trainings"]) == [1, 6, 1, 1, 1]
    assert list(jobs["epochs"]) == [10, 30, 10, 10, 10]
    assert list(jobs["flops"]) == pytest.approx([plain, 3 * plain, plain, learned, plain])
    waited = [0, 0, 3 * plain, 0, learned]
    assert list(jobs["chain"] - jobs["flops"]) == pytest.approx(waited)
    assert set(jobs["parameters"]) == {PARAMETERS}


def test_a_trial_of_several_trainings_counts_them_all_and_none_is_stopped_early() -> None:
    search = planned(row("searched", SEARCHED_ALPHA), replicates=3).loc["search of searched"]
    assert (search["trainings"], search["epochs"]) == (18, 180)


def test_a_search_over_settings_of_a_learned_row_is_of_learned_trainings() -> None:
    jobs = planned(row("searched", Searched(LEARNED, BETA_ALPHA)), row("learned", LEARNED))
    assert jobs.loc["search of searched", "flops"] == 3 * jobs.loc["learned", "flops"]
    assert jobs.loc["searched", "flops"] == jobs.loc["learned", "flops"]


def test_a_strategy_spends_what_the_grid_costs() -> None:
    """Two learned rows: 9 plain trainings, by the budget's own rough count."""
    strategy = Listed((NONE,) * 20)
    jobs = planned(row("a", LEARNED), row("b", LEARNED), row("search", strategy))
    search = jobs.loc["search"]
    assert (search["count"], search["trainings"], search["epochs"]) == (2, 9, 90)
    assert search["flops"] == pytest.approx(9 * PER_IMAGE * (10_000 + EVALUATED))


def test_a_semi_supervised_method_has_its_own_weight() -> None:
    jobs = planned(
        row("supervised", NONE, semi=SemiRow("supervised-only")),
        row("pseudo", LEARNED, semi=SemiRow("pseudo-label")),
        training=replace(TRAINING, semi=SEMI),
    )
    images = [10 * 900, 10 * 1800 * 4.53]
    assert list(jobs["flops"]) == pytest.approx([PER_IMAGE * (n + EVALUATED) for n in images])


def test_the_report_adds_up() -> None:
    """Four jobs of one hour each, two of them one after the other."""
    hour = 3600 * 2e12
    usual = {"table": "table", "column": "digits", "trainings": 1, "epochs": 10, "flops": hour}
    jobs = pd.DataFrame(
        usual | {"row": row, "count": count, "parameters": 1_000_000, "chain": chain}
        for row, count, chain in (("a", 2, hour), ("b", 1, hour), ("c", 1, 2 * hour))
    )
    table = Table("table", [row("a", NONE)], {"digits": TRAINING}, SearchSettings())
    text = plan_report(jobs, [table], 2, 2, 2.0)
    assert "4 trainings, 4 GPU-hours, at least 2.0 hours on 2 GPUs (100% busy)." in text
    assert "table/digits/c and what it waits for take 2.0 hours one after another" in text
    assert "| table a |         2 |     20 |       2.0 |   50% |" in text
    assert "checkpoints of running trainings: 32 MB" in text  # 2 × 1e6 × 8 bytes × 2 copies
    assert "records: 18 kB" in text  # 40 epochs × 450
    assert "pixels: 115 kB" in text  # 1797 × 64
    assert "2 TFLOP/s" in text
    alone = plan_report(jobs, [table], 2, 1, 2.0)
    assert "4.0 hours on 1 GPUs" in alone
    assert "the number of GPUs, up to about 2" in alone
