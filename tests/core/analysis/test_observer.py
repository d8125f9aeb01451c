"""What a training shows when it is looked at, against what its steps were given."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from core.analysis.config import AnalysisConfig
from core.analysis.observer import Findings
from core.data import make_splits
from core.models import build_model
from core.policies import LearnedConfig
from core.training import training
from core.training.checkpoint import load_checkpoint
from core.training.config import TrainingConfig
from core.training.fit import fit
from core.training.prepared_data import prepare_data
from core.training.result import TrainingResult
from tests.support.digit_trainings import digits, interrupt, numbers

ANALYSIS = AnalysisConfig(
    unmixed_images=20, pair_epochs=(3, 30, 90, 120), plane_images=30, mixed_samples=11
)
CONFIG = TrainingConfig(
    "digits", "cnn_2d", LearnedConfig(), train_size=50, meta_size=20, epochs=3,
    batch_size=16, meta_batch_size=8, lr=0.05, translate=1, width=4, analysis=ANALYSIS,
)  # fmt: skip
LOOKED = ("label_entropy", "unmixed_loss")


@functools.cache
def looked_at() -> tuple[TrainingResult, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Returns a training, and λ and the positions of both samples of all its pairs, by epoch."""
    steps = []
    real = training.LambdaStatistics.add
    orders = []
    real_order = training._training_order

    def add(self: Any, interpolation: Any) -> None:
        steps.append((interpolation.lam.numpy(), interpolation.partner.numpy()))
        real(self, interpolation)

    def order(*arguments: Any) -> Any:
        orders.append(real_order(*arguments))
        return orders[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.LambdaStatistics, "add", add)
        patch.setattr(training, "_training_order", order)
        result = fit(CONFIG, source=digits())
    epochs = []
    for batches in orders:
        rows = [batch.numpy() for batch in batches]
        taken, steps = steps[: len(rows)], steps[len(rows) :]
        lam = np.concatenate([lam for lam, _ in taken])
        partner = np.concatenate([r[p] for r, (_, p) in zip(rows, taken, strict=True)])
        epochs.append((lam, np.concatenate(rows), partner))
    return result, epochs


def test_looking_changes_nothing() -> None:
    plain = fit(replace(CONFIG, analysis=None), source=digits())
    assert plain.findings is None
    assert not set(LOOKED) & set(plain.history[0])
    without = ("findings", *LOOKED)
    assert numbers(looked_at()[0], without=without) == numbers(plain, without=without)


def test_mean_lam_by_class_at_the_scaled_epochs() -> None:
    result, epochs = looked_at()
    assert result.findings is not None
    assert result.findings.pair_epochs == [1, 3]
    labels = prepare_data(CONFIG, digits(), "cpu").train.labels.numpy()
    for number, actual in zip((1, 3), result.findings.pair_lam, strict=True):
        lam, first, second = epochs[number - 1]
        assert np.shape(actual) == (10, 10)
        for a in range(10):
            for b in range(10):
                chosen = lam[(labels[first] == a) & (labels[second] == b)]
                expected = pytest.approx(chosen.mean(), abs=1e-4) if len(chosen) else None
                assert actual[a][b] == expected


def test_the_least_loss_of_the_mixed_labels() -> None:
    result, epochs = looked_at()
    labels = prepare_data(CONFIG, digits(), "cpu").train.labels.numpy()
    for metrics, (lam, first, second) in zip(result.history, epochs, strict=True):
        weight = lam.astype(np.float64)[:, None]
        mixed = weight * np.eye(10)[labels[first]] + (1 - weight) * np.eye(10)[labels[second]]
        entropy = -np.where(mixed > 0, mixed * np.log(np.maximum(mixed, 1e-300)), 0).sum(1)
        assert metrics["label_entropy"] == pytest.approx(entropy.mean(), rel=1e-5)
        assert metrics["train_loss"] > metrics["label_entropy"]


def test_features_loss_and_distances_are_those_of_the_trained_network(tmp_path: Path) -> None:
    result, epochs = looked_at()
    assert result.findings is not None
    assert numbers(fit(CONFIG, source=digits(), directory=tmp_path)) == numbers(result)
    state = load_checkpoint(tmp_path)
    assert state is not None
    model = build_model("cnn_2d", in_channels=1, num_classes=10, image_size=8, width=4)
    model.load_state_dict(state["model"])
    model.double().eval()
    data = prepare_data(CONFIG, digits(), "cpu")
    pixels, test = np.asarray(digits().train_data), np.asarray(digits().test_data)
    raw = pixels[trained_rows()] / 255
    train = torch.from_numpy((raw - raw.mean()) / raw.std())
    with torch.no_grad():
        rows = [500 * i // 30 for i in range(30)]
        shown = model.features(torch.from_numpy((test[rows] / 255 - raw.mean()) / raw.std()))
        np.testing.assert_allclose(result.findings.plane, shown.numpy(), rtol=1e-3, atol=1e-4)
        assert result.findings.plane_labels == digits().test_labels[rows].tolist()
        every = [50 * i // 20 for i in range(20)]
        loss = nn.functional.cross_entropy(model(train[every]), data.train.labels[every])
        assert result.history[-1]["unmixed_loss"] == pytest.approx(float(loss), rel=1e-4)
        # 11 of 3 epochs: 3, 4 and 4, the first of each.
        remaining = [part[: (3, 4, 4)[e]] for e, parts in enumerate(epochs) for part in parts]
        lam, first, second = (np.concatenate(remaining[at::3]) for at in range(3))
        weight = torch.from_numpy(lam).double().view(-1, 1, 1, 1)
        mixed = model.features(weight * train[first] + (1 - weight) * train[second])
        real = model.features(train)
    labels = data.train.labels
    nearest = [
        min(
            float((point - other).norm())
            for other, label in zip(real, labels, strict=True)
            if label not in (labels[i], labels[j])
        )
        for point, i, j in zip(mixed, first, second, strict=True)
    ]
    assert result.findings.intrusion["samples"] == 11
    assert result.findings.intrusion["mean"] == pytest.approx(np.mean(nearest), rel=1e-3)
    assert result.findings.intrusion["minimum"] == pytest.approx(min(nearest), rel=1e-2)


def trained_rows() -> np.ndarray:
    """Positions of the training images in the training part of digits."""
    return make_splits(digits().train_labels, 10, meta_size=20, train_size=50, seed=0).train.numpy()


def test_what_is_stored_is_read_again_and_small() -> None:
    result, _ = looked_at()
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert TrainingResult.from_dict(json.loads(text)) == result
    stored = json.loads(text)
    del stored["findings"]
    assert TrainingResult.from_dict(stored) == replace(result, findings=None)
    assert len(json.dumps(stored)) + 10_000 > len(text)


@pytest.mark.parametrize("at", [1, 2])
def test_a_resumed_training_finds_the_same(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.training.fit.CHECKPOINT_SECONDS", 0.0)
    interrupt(CONFIG, tmp_path, at)
    assert numbers(fit(CONFIG, source=digits(), directory=tmp_path)) == numbers(looked_at()[0])


def test_nothing_is_found_of_what_was_not_asked_for() -> None:
    first = AnalysisConfig(pair_epochs=(1,))
    config = replace(CONFIG, model="digits_cnn", epochs=1, analysis=first)
    result = fit(config, source=digits())
    assert result.findings is not None
    assert result.findings.pair_epochs == [1]
    assert not result.findings.plane
    assert not result.findings.plane_labels
    assert not result.findings.intrusion
    assert "unmixed_loss" not in result.history[0]
    empty = fit(replace(config, analysis=AnalysisConfig()), source=digits())
    assert empty.findings == Findings()


def test_more_images_than_there_are_is_all_of_them() -> None:
    """50 training images, 500 test images, 3 epochs of 50 pairs."""
    results = [
        fit(replace(CONFIG, analysis=analysis), source=digits())
        for analysis in (
            AnalysisConfig(50, (), 500, 150),
            AnalysisConfig(51, (), 501, 1000),
        )
    ]
    assert numbers(results[0]) == numbers(results[1])
    assert results[0].findings is not None
    assert results[0].findings.intrusion["samples"] == 150
    assert results[0].findings.plane_labels == digits().test_labels.tolist()
