"""The plan's counts against sums made by hand, and FLOPs against a count by layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from core.models import build_model
from core.policies import AdaMixUpConfig, Beta, LearnedConfig, NoMix
from core.semi_supervised.config import SemiSupervisedConfig
from core.training.config import TrainingConfig
from hpo.bench.estimate.on_paper import (
    Column,
    Job,
    Table,
    jobs,
    multiple,
    plain_step,
    training_flops,
)
from hpo.bench.estimate.report import plan_report
from hpo.search.protocol import SearchSettings
from hpo.search.strategies import Listed
from hpo.study.rows import SEARCHED_ALPHA, FrozenFrom, Recipe, Row, SemiRow, StudyRow

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
    seen: list[int] = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor], out: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d | nn.Linear)
        places = out[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
        seen.append(2 * module.weight.numel() * places)

    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return 3 * sum(seen) - seen[0]


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


def test_a_step_costs_what_was_measured() -> None:
    assert multiple(NONE, "cnn") == multiple(Beta(alpha=1.0), "cnn") == 1
    assert multiple(LEARNED, "cnn") == 4.58
    assert multiple(LEARNED, "preact_resnet18") == 4.53
    assert multiple(LearnedConfig(every=2), "cnn") == pytest.approx(1 + 3.58 / 2)
    assert multiple(AdaMixUpConfig(), "cnn") == 3


def test_flops_of_a_training_by_hand() -> None:
    plain = PER_IMAGE * (10 * 1000 + EVALUATED)
    assert training_flops(TRAINING, NONE) == pytest.approx(plain)
    learned = PER_IMAGE * (10 * 1000 * 4.58 + EVALUATED)
    assert training_flops(TRAINING, LEARNED) == pytest.approx(learned)
    everything = replace(TRAINING, train_size=None)
    assert training_flops(everything, NONE) == pytest.approx(
        PER_IMAGE * (10 * (1297 - 90) + EVALUATED)
    )
    both = replace(TRAINING, meta_in_training=True)
    assert training_flops(both, NONE) == pytest.approx(PER_IMAGE * (10 * 1090 + EVALUATED))
    with pytest.raises(ValueError, match="no named data set"):
        training_flops(replace(TRAINING, dataset="folder:mine"), NONE)


def test_an_epoch_with_few_labels_passes_once_over_the_unlabelled_images() -> None:
    """900 unlabelled images, and beside each of them one labelled, or two."""
    semi = replace(TRAINING, semi=SemiSupervisedConfig("pseudo-label", 100))
    assert training_flops(semi, NONE) == pytest.approx(PER_IMAGE * (10 * 1800 + EVALUATED))
    assert training_flops(semi, NONE, 0.5) == pytest.approx(PER_IMAGE * (10 * 900 + EVALUATED))
    wide = replace(semi, semi=SemiSupervisedConfig("pseudo-label", 100, unlabelled_batch=25))
    assert training_flops(wide, NONE) == pytest.approx(PER_IMAGE * (10 * 2700 + EVALUATED))


def row(key: str, recipe: Recipe, semi: SemiRow | None = None) -> StudyRow:
    return StudyRow(Row(key, key, key, "extra"), recipe, semi=semi)


def planned(*rows: StudyRow, seeds: int = 2, training: TrainingConfig = TRAINING) -> dict[str, Job]:
    search = SearchSettings(trials=6)
    table = Table("table", rows, [Column(training, "digits")], search)
    return {job.key: job for job in jobs(table, seeds)}


def test_jobs_wait_for_what_they_need() -> None:
    found = planned(
        row("none", NONE),
        row("searched", SEARCHED_ALPHA),
        row("learned", LEARNED),
        row("frozen", FrozenFrom("learned")),
    )
    assert {key: job.after for key, job in found.items()} == {
        "table/digits/search": None,
        "table/digits/none/0": None,
        "table/digits/none/1": None,
        "table/digits/searched/0": "table/digits/search",
        "table/digits/searched/1": "table/digits/search",
        "table/digits/learned/0": None,
        "table/digits/learned/1": None,
        "table/digits/frozen/0": "table/digits/learned/0",
        "table/digits/frozen/1": "table/digits/learned/1",
    }
    plain = PER_IMAGE * (10_000 + EVALUATED)
    search = found["table/digits/search"]
    assert (search.trainings, search.epochs) == (6, 30)  # half of the epochs are stopped early
    assert search.flops == pytest.approx(3 * plain)
    assert found["table/digits/frozen/0"].flops == pytest.approx(plain)
    assert found["table/digits/learned/0"].flops > 4 * plain
    assert {job.parameters for job in found.values()} == {PARAMETERS}


def test_a_strategy_spends_what_the_grid_costs() -> None:
    """Two learned rows: 9 plain trainings, by the budget's own rough count."""
    strategy = Listed((NONE,) * 20)
    found = planned(row("a", LEARNED), row("b", LEARNED), row("search", strategy), seeds=1)
    search = found["table/digits/search/0"]
    assert (search.trainings, search.epochs) == (9, 90)
    assert search.flops == pytest.approx(9 * PER_IMAGE * (10_000 + EVALUATED))


def test_a_semi_supervised_method_has_its_own_weight() -> None:
    semi = replace(TRAINING, semi=SemiSupervisedConfig("supervised", 100))
    found = planned(
        row("supervised", NONE, semi=SemiRow("supervised-only")),
        row("pseudo", LEARNED, semi=SemiRow("pseudo-label")),
        seeds=1,
        training=semi,
    )
    supervised, pseudo = found["table/digits/supervised/0"], found["table/digits/pseudo/0"]
    assert supervised.flops == pytest.approx(PER_IMAGE * (10 * 900 + EVALUATED))
    assert pseudo.flops == pytest.approx(PER_IMAGE * (10 * 1800 * 4.58 + EVALUATED))


def test_the_report_adds_up() -> None:
    """Four jobs of one hour each, two of them one after the other."""
    hour = 3600 * 2e12

    def job(key: str, after: str | None = None) -> Job:
        return Job(key, "table", key[0], "digits", 1, 10, hour, 1_000_000, after)

    table = Table("table", [row("a", NONE)], [Column(TRAINING, "digits")], SearchSettings())
    four = [job("a1"), job("a2"), job("b1"), job("b2", after="b1")]
    text = plan_report(four, [table], 2, 2, 2.0)
    assert "4 trainings, 4 GPU-hours, 2.0 hours on 2 GPUs (100% busy)." in text
    assert "b1 and what waits for it take 2.0 hours one after another" in text
    assert "| table a |         2 |     20 |       2.0 |   50% |" in text
    assert "checkpoints of running trainings: 32 MB" in text  # 2 × 1e6 × 8 bytes × 2 copies
    assert "records: 18 kB" in text  # 40 epochs × 450
    assert "pixels: 115 kB" in text  # 1797 × 64
    assert "2 TFLOP/s" in text
    alone = plan_report(four, [table], 2, 1, 2.0)
    assert "4.0 hours on 1 GPUs" in alone
    assert "the number of GPUs, up to about 2" in alone
