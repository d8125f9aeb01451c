"""The loop of a semi-supervised training: what it feeds, what it reports, what disturbs it."""

from __future__ import annotations

import functools
import json
import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.data import Source
from core.evaluation import evaluate
from core.models import build_model
from core.policies import Beta, LearnedConfig, NoMix, PolicyConfig, ScoresConfig
from core.semi_supervised.config import SemiSupervisedConfig
from core.semi_supervised.method import SemiBatch, SemiStep
from core.semi_supervised.supervised import SupervisedOnly as Supervised
from core.testing.small_network import identical
from core.training import few_labels as semi_training
from core.training import few_labels_data, training
from core.training.checkpoint import load_checkpoint
from core.training.config import TrainingConfig
from core.training.few_labels import SemiSupervisedTraining
from core.training.few_labels_data import SemiData, prepare_semi_data
from core.training.fit import fit, start
from core.training.prepared_data import draw_splits
from core.training.result import DivergenceError, Metrics, TrainingResult
from tests.support.digit_trainings import digits, interrupt, numbers

NONE, LEARNED = NoMix(), LearnedConfig()
BETA = Beta(alpha=0.75, per_sample=True)

LABELLED, UNLABELLED, B, U, M = 20, 26, 8, 6, 5
EPOCHS, STEPS = 3, 4
"""Of CONFIG: 26 unlabelled images in batches of 6; two are left over."""

CONFIG = TrainingConfig(
    "digits", "digits_cnn", NONE, train_size=LABELLED + UNLABELLED, meta_size=12, width=4,
    epochs=EPOCHS, batch_size=B, meta_batch_size=M, lr=0.05, translate=1,
    semi=SemiSupervisedConfig("supervised", LABELLED, unlabelled_batch=U),
)  # fmt: skip


def case(policy: PolicyConfig = NONE, **settings: Any) -> TrainingConfig:
    semi = SemiSupervisedConfig(labelled=LABELLED, unlabelled_batch=U, **settings)
    return replace(CONFIG, policy=policy, semi=semi)


# Ten classes: untrained networks are seldom surer than 0.13.
CASES = {
    "supervised": CONFIG,
    "pi-model": case(kind="pi-model", weight=20.0, ramp="sigmoid", ramp_share=0.5),
    "mean-teacher": case(kind="mean-teacher", weight=8.0, ema=0.8),
    "vat": case(kind="vat", epsilon=2.0),
    "vat + em": case(kind="vat", epsilon=2.0, entropy=0.1),
    "pseudo-label": case(kind="pseudo-label", threshold=0.13),
    "mixup + apl": case(
        BETA, kind="pseudo-label", threshold=0.16, threshold_step=0.03, threshold_period=1
    ),
    "metamixup + pseudo-label": case(LEARNED, kind="pseudo-label", threshold=0.13),
    "scores + pseudo-label": case(ScoresConfig(), kind="pseudo-label", threshold=0.13),
    "mixmatch": case(BETA, kind="mixmatch", weight=25.0, ema=0.8, ramp="linear", ramp_share=0.5),
    "mixmatch + metamixup": case(LEARNED, kind="mixmatch", weight=25.0, ema=0.8),
    "mixmatch + placebo": case(
        LearnedConfig(permute=True, every=3), kind="mixmatch", weight=25.0, ema=0.8
    ),
}
FED = {
    "supervised": 0, "pseudo-label": 1, "pi-model": 2, "mixmatch + metamixup": 2,
}  # fmt: skip
"""Every way in which a method is fed: so many views, and the last with meta-validation images."""


def run(config: TrainingConfig, **options: Any) -> TrainingResult:
    return fit(config, source=digits(), **options)


def images(config: TrainingConfig) -> SemiData:
    return prepare_semi_data(config, digits(), "cpu")


@functools.cache
def kept(config: TrainingConfig) -> tuple[TrainingResult, dict[str, Any]]:
    """Returns the result of a training that nothing disturbs, and its checkpoint. Not to be
    changed."""
    with tempfile.TemporaryDirectory() as folder:
        result, checkpoint = run(config, directory=Path(folder)), load_checkpoint(Path(folder))
    assert checkpoint is not None
    return result, checkpoint


def whole(config: TrainingConfig) -> TrainingResult:
    return kept(config)[0]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[SemiBatch, SemiStep]]:
    """Returns what each step was given and gave."""
    taken: list[tuple[SemiBatch, SemiStep]] = []
    real = semi_training.build_method

    def build(*given: Any) -> Any:
        method = real(*given)
        step: Callable[..., SemiStep] = method.step

        def spy(model: Any, optimizer: Any, batch: SemiBatch, **more: Any) -> SemiStep:
            taken.append((batch, step(model, optimizer, batch, **more)))
            return taken[-1][1]

        method.step = spy
        return method

    monkeypatch.setattr(semi_training, "build_method", build)
    return taken


# ------------------------------------------------------------------------ what a step is given


@pytest.mark.parametrize(("name", "views"), FED.items())
def test_an_epoch_is_a_pass_over_the_unlabelled_images(
    name: str, views: int, steps: list[tuple[SemiBatch, SemiStep]]
) -> None:
    """In whole batches; labelled images come in whole batches of reshuffled passes."""
    result = run(CASES[name])
    assert len(steps) == EPOCHS * STEPS
    orders = []
    for epoch in range(EPOCHS):
        batches = [batch for batch, _ in steps[epoch * STEPS : (epoch + 1) * STEPS]]
        for batch in batches:
            assert len(batch.labelled[0]) == len(batch.labelled[1]) == B
            assert batch.indices.shape == (B + U,)
            assert batch.epoch == epoch
            assert [view.shape for view in batch.views] == [(U, 1, 8, 8)] * views
        labelled = torch.cat([batch.indices[:B] for batch in batches])
        unlabelled = torch.cat([batch.indices[B:] for batch in batches])
        # Two batches of 8 from each pass over 20.
        for half in (labelled[: 2 * B], labelled[2 * B :]):
            assert len(set(half.tolist())) == 2 * B
            assert int(half.max()) < LABELLED
        assert len(set(unlabelled.tolist())) == STEPS * U
        assert set(unlabelled.tolist()) <= set(range(LABELLED, LABELLED + UNLABELLED))
        orders.append((*labelled.tolist(), *unlabelled.tolist()))
    assert len(set(orders)) == EPOCHS
    progress = [batch.progress for batch, _ in steps]
    assert progress == pytest.approx([i / (EPOCHS * STEPS) for i in range(EPOCHS * STEPS)])
    losses = torch.stack([step.loss for _, step in steps]).double().view(EPOCHS, STEPS)
    assert [m["train_loss"] for m in result.history] == pytest.approx(losses.mean(1).tolist())


def test_indices_name_the_images_that_come(steps: list[tuple[SemiBatch, SemiStep]]) -> None:
    config = replace(CASES["metamixup + pseudo-label"], flip=False, translate=0)
    run(config)
    data = images(config)
    ((labelled, y),) = data.labelled.batches([torch.arange(LABELLED)])
    ((unlabelled, _),) = data.unlabelled.batches([torch.arange(UNLABELLED)])
    x = data.transform.evaluate(torch.cat([labelled, unlabelled]))
    ((meta, meta_y),) = data.meta.batches([torch.arange(12)])
    meta = data.transform.evaluate(meta)
    for batch, _ in steps:
        assert torch.equal(batch.labelled[0], x[batch.indices[:B]])
        assert torch.equal(batch.labelled[1], y[batch.indices[:B]])
        (view,) = batch.views
        assert torch.equal(view, x[batch.indices[B:]])
        assert batch.val is not None
        assert len(batch.val[0]) == M
        actual = (batch.val[0][:, None] == meta[None]).flatten(2).all(2)
        assert actual.sum(1).tolist() == [1] * M
        assert torch.equal(batch.val[1], meta_y[actual.long().argmax(1)])


@pytest.mark.parametrize("name", ["pi-model", "mixmatch"])
def test_views_are_the_same_images_augmented_apart(
    name: str, steps: list[tuple[SemiBatch, SemiStep]]
) -> None:
    config = replace(CASES[name], flip=False, translate=1)
    run(config)
    data = images(config)
    apart = 0
    for batch, _ in steps:
        first, second = batch.views
        apart += int((first != second).flatten(1).any(1).sum())
        ((pixels, _),) = data.unlabelled.batches([batch.indices[B:] - LABELLED])
        plain = data.transform.evaluate(pixels)
        padded = nn.functional.pad(plain, (1, 1, 1, 1))
        shifts = [padded[..., i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
        for view in batch.views:
            explained = torch.stack([(view == s).flatten(1).all(1) for s in shifts]).any(0)
            assert bool(explained.all())
    # Both draw the same of nine shifts in one case of nine.
    assert 0.7 < apart / (EPOCHS * STEPS * U) < 1


def test_methods_see_the_same_images_in_the_same_augmentation(
    steps: list[tuple[SemiBatch, SemiStep]],
) -> None:
    """Whatever they draw themselves and however many views they read."""
    seen = {}
    for name in ("supervised", "scores + pseudo-label", "vat", "pi-model", "mixmatch"):
        steps.clear()
        run(replace(CASES[name], noise=0.1))
        seen[name] = [batch for batch, _ in steps]
    first = seen["mixmatch"]
    for batches in seen.values():
        for i, (batch, other) in enumerate(zip(batches, first, strict=True)):
            assert torch.equal(batch.indices, other.indices)
            assert torch.equal(batch.labelled[0], other.labelled[0])
            assert torch.equal(batch.labelled[1], other.labelled[1])
            if i == 0 and batch.views:
                assert torch.equal(batch.views[0], other.views[0])


# ------------------------------------------------------------------------------ what it reports


SAMPLES = {
    "supervised": B,
    "pi-model": 2 * (B + U),
    "mean-teacher": 2 * (B + U),
    "vat": 3 * (B + U),  # clean, one power iteration, perturbed
    "mixmatch": 2 * U + B + 2 * U,  # guesses, then the step
    "mixmatch + metamixup": 2 * U + 2 * (B + 2 * U) + M,
}


@pytest.mark.parametrize("name", [*SAMPLES, "pseudo-label", "scores + pseudo-label"])
def test_what_each_epoch_reports(name: str) -> None:
    config, result = CASES[name], whole(CASES[name])
    seen = result.history
    names = {
        "epoch", "train_loss", "val_loss", "val_error", "lr", "train_seconds", "samples_seen",
    }  # fmt: skip
    if config.semi and config.semi.kind in ("pseudo-label", "mixmatch"):
        names |= {"lam_mean", "lam_q05", "lam_q25", "lam_q50", "lam_q75", "lam_q95"}
    if config.policy.learns:
        names |= {"lam_change", "hypergradient_rms", "meta_loss"}
    pseudo = {"accepted", "accepted_accuracy", "threshold"}
    if config.semi and config.semi.kind == "pseudo-label":
        names |= pseudo
    for metrics in seen:
        assert names - {"accepted_accuracy"} <= set(metrics) <= names
        assert ("accepted_accuracy" in metrics) == (metrics.get("accepted", 0) > 0)
        assert all(math.isfinite(value) for value in metrics.values())
    assert [metrics["epoch"] for metrics in seen] == [1, 2, 3]
    if name in SAMPLES:  # others depend on what is accepted
        per_epoch = STEPS * SAMPLES[name]
        assert [m["samples_seen"] for m in seen] == [per_epoch, 2 * per_epoch, 3 * per_epoch]
    assert result.scores is None
    assert TrainingResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


@pytest.mark.parametrize("name", ["pseudo-label", "mixup + apl"])
def test_pseudo_labels_are_counted_against_the_true_ones(
    name: str, steps: list[tuple[SemiBatch, SemiStep]]
) -> None:
    result = run(CASES[name])
    true = images(CASES[name]).true_labels
    for epoch, metrics in enumerate(result.history):
        given = right = 0
        for batch, step in steps[epoch * STEPS : (epoch + 1) * STEPS]:
            assert step.pseudo_labels is not None
            for row, label in zip(
                batch.indices[B:].tolist(), step.pseudo_labels.tolist(), strict=True
            ):
                given += label >= 0
                right += label == int(true[row - LABELLED])
        assert metrics["accepted"] == pytest.approx(100 * given / (STEPS * U))
        if given:
            assert metrics["accepted_accuracy"] == pytest.approx(100 * right / given)
    assert any(m["accepted"] > 0 for m in result.history)


def test_the_threshold_falls_by_epoch() -> None:
    result = whole(CASES["mixup + apl"])
    assert [m["threshold"] for m in result.history] == pytest.approx([0.16, 0.13, 0.10])
    # Every largest probability of ten exceeds 0.1.
    assert result.history[-1]["accepted"] == 100


@pytest.mark.parametrize("name", ["mean-teacher", "mixmatch"])
def test_the_moving_average_is_what_is_evaluated(name: str) -> None:
    result, checkpoint = kept(CASES[name])
    (average,) = checkpoint["method"].values()
    model = build_model("digits_cnn", in_channels=1, num_classes=10, image_size=8, width=4)
    data = images(CASES[name])
    losses = []
    for weights in (average, checkpoint["model"]):
        model.load_state_dict(weights)
        losses.append(evaluate(model, data.meta, data.transform).loss)
    assert losses[0] != losses[1]
    assert result.history[-1]["val_loss"] == losses[0]
    model.load_state_dict(average)
    assert result.test_error == evaluate(model, data.test, data.transform).error


@pytest.mark.parametrize(
    ("name", "epochs"), [("supervised", 1), ("supervised", 23), ("mean-teacher", 4)]
)
def test_the_median_is_over_the_networks_of_the_last_20_epochs(
    name: str, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CASES[name], epochs=epochs, train_size=LABELLED + 2 * U, lr=0.2)
    errors: list[tuple[int, float]] = []
    trained = 0
    model: list[nn.Module] = []
    real = semi_training.evaluate

    def spy(network: nn.Module, given: Any, transform: Any) -> Any:
        actual = real(network, given, transform)
        model.append(network)
        if len(given) == len(digits().test_labels):
            errors.append((trained, actual.error))
        return actual

    def count(_: Metrics) -> None:
        nonlocal trained
        trained += 1

    monkeypatch.setattr(semi_training, "evaluate", spy)
    result = run(config, on_epoch=count)
    # The last reading is that of the result.
    last = errors.pop()
    assert last == (epochs, result.test_error)
    assert [at for at, _ in errors] == list(range(max(0, epochs - 20), epochs))
    assert result.median_error == statistics.median(error for _, error in errors)
    assert errors[-1][1] == result.test_error
    assert len({id(network) for network in model}) == 1
    if epochs == 23:
        # The three before would have moved it.
        assert len({error for _, error in errors}) > 5


# ----------------------------------------------------------------- wrong labels, interruptions


def assert_same_end(one: dict[str, Any], directory: Path) -> None:
    """The training of a directory ended in a state."""
    two = load_checkpoint(directory)
    assert two is not None
    assert one.keys() == two.keys()
    for part in one:
        if part != "history":
            assert identical(one[part], two[part]), part


@pytest.fixture
def mislabelled(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Source]:
    """Returns the digits of which these have the class after their own. All are drawn by the true
    labels: wrong ones would change which are labelled."""
    monkeypatch.setattr(few_labels_data, "draw_splits", lambda c, _: draw_splits(c, digits()))

    def relabel(rows: Any) -> Source:
        labels = digits().train_labels.copy()
        labels[rows] = (labels[rows] + 1) % 10
        return replace(digits(), train_labels=labels)

    return relabel


@pytest.mark.parametrize("name", FED)
def test_wrong_labels_of_unlabelled_images_change_nothing_and_of_a_labelled_one_a_lot(
    name: str, mislabelled: Callable[[Any], Source], tmp_path: Path
) -> None:
    config, (expected, ended) = CASES[name], kept(CASES[name])
    splits = draw_splits(config, digits())
    assert splits.unlabelled is not None
    assert splits.labelled is not None
    wrong = mislabelled(splits.unlabelled.numpy())
    told = prepare_semi_data(config, wrong, "cpu").true_labels
    assert bool((told != images(config).true_labels).all())
    result = fit(config, source=wrong, directory=tmp_path / "wrong")
    counted = {"without": ("accepted_accuracy",)}  # that, and only that, may tell
    assert numbers(result, **counted) == numbers(expected, **counted)
    assert_same_end(ended, tmp_path / "wrong")
    result = fit(config, source=mislabelled(splits.labelled[:1].numpy()))
    assert result.train_loss != expected.train_loss


EVERYTHING: dict[str, Any] = {
    "model": "preact_resnet18", "optimizer": "adamw", "lr": 0.003, "noise": 0.15,
    "normalisation": "gcn-zca", "padding": "reflect",
}  # fmt: skip
"""BatchNorm, Adam's state, noise and whitening."""


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        # Steps with nothing to keep, an average, a count of epochs, and what policies keep.
        *((name, {}) for name in ("vat", "mean-teacher", "mixup + apl", "scores + pseudo-label")),
        ("mixmatch + placebo", {}),
        ("mixmatch + metamixup", EVERYTHING),
    ],
    ids=lambda given: given if isinstance(given, str) else "everything" if given else "plain",
)
def test_an_interruption_after_every_epoch_changes_nothing(
    name: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.training.fit.CHECKPOINT_SECONDS", 0.0)
    config = replace(CASES[name], **changes)
    expected, ended = kept(config)
    for at in range(1, EPOCHS + 1):
        interrupt(config, tmp_path / "parts", at)
    assert numbers(run(config, directory=tmp_path / "parts")) == numbers(expected)
    assert_same_end(ended, tmp_path / "parts")


def test_another_method_does_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    run(CASES["vat"], directory=tmp_path)
    other = run(CASES["vat + em"], directory=tmp_path)
    assert numbers(other) == numbers(whole(CASES["vat + em"]))
    assert numbers(other) != numbers(whole(CASES["vat"]))


@pytest.mark.parametrize(
    ("name", "model"), [("supervised", "digits_cnn"), ("mixmatch + metamixup", "preact_resnet18")]
)
def test_divergence_is_an_error_that_names_the_epoch(name: str, model: str) -> None:
    config = replace(CASES[name], model=model, lr=1e30)
    with pytest.raises(DivergenceError, match=r"epoch 1: .*lower the learning rate \(now 1e\+30\)"):
        run(config)


@pytest.mark.parametrize("name", ["supervised", "mixmatch + metamixup"])
def test_divergence_later_on_keeps_the_history(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        training, "learning_rate", lambda _, step, steps: 0.05 if step < 9 else 1e30
    )
    seen: list[Metrics] = []
    with pytest.raises(DivergenceError, match="epoch 3") as caught:
        run(CASES[name], on_epoch=seen.append)
    assert [m["epoch"] for m in seen] == [1, 2]
    assert caught.value.history == seen


def test_the_rate_follows_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = Supervised.step

    def spy(self: Any, model: Any, optimizer: Any, *more: Any, **options: Any) -> Any:
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        rates.append(rate)
        return step(self, model, optimizer, *more, **options)

    monkeypatch.setattr(Supervised, "step", spy)
    result = run(replace(CONFIG, schedule="step", milestones=(1, 2), lr_decay=0.1))
    assert rates == pytest.approx([0.05] * STEPS + [0.005] * STEPS + [0.0005] * STEPS)
    assert [m["lr"] for m in result.history] == pytest.approx([0.05, 0.005, 0.0005])


def test_is_what_fit_makes_of_the_configuration() -> None:
    made = start(CONFIG, digits(), "cpu")
    assert isinstance(made, SemiSupervisedTraining)
    assert type(start(replace(CONFIG, semi=None), digits(), "cpu")) is training.Training
    assert whole(replace(CONFIG, semi=None)).median_error is None
