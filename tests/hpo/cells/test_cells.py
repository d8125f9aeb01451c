from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from core.analysis.config import AnalysisConfig
from core.meta.reading import DEFAULT, PAPER
from core.policies import (
    Beta,
    CutMix,
    Fixed,
    Frozen,
    FrozenScheduleConfig,
    LearnedBetaConfig,
    LearnedConfig,
    NoMix,
    PolicyConfig,
    ScoresConfig,
)
from core.semi_supervised.config import SemiSupervisedConfig
from core.training.config import TrainingConfig
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.cells.result import PartialResult
from hpo.cells.store import CellStore, StoreError

MakeRecord = Callable[..., CellRecord]

TRAINING = TrainingConfig("digits", "digits_cnn", Beta(alpha=1.0))
CELL = Cell("beta-1", TRAINING)
GOLDEN = "beta-1-digits-s0-a909ef9d"
"""Results that people have on disk are found by this: a change to it loses them."""

GOLDENS: dict[str, tuple[str, PolicyConfig]] = {
    "none-digits-s0-6d0360c3": ("none", NoMix()),
    "fixed-0.3-digits-s0-a3b214a7": ("fixed-0.3", Fixed(lam=0.3)),
    "metamixup-paper-digits-s0-5e61634e": (
        "metamixup-paper", LearnedConfig(reading=PAPER),
    ),
    "metamixup-digits-s0-0a4d07d3": ("metamixup", LearnedConfig(reading=DEFAULT)),
    "placebo-digits-s0-e23ddfc7": ("placebo", LearnedConfig(permute=True, reading=DEFAULT)),
}  # fmt: skip
"""As they were before policies had `last_blocks`, `refresh_every`, `every` and `quantiles`, and
trainings `label_noise`, `label_noise_kind`, `imbalance`, `folds`, `fold`, `optimizer`,
`normalisation`, `padding`, `noise`, `semi` and `analysis`. That of a learned policy changes where
the default reading does."""

OTHER_VALUES: dict[str, Any] = {
    "precision": "bf16",
    "memory_format": "channels_last",
    "dataset": "mnist",
    "model": "cnn",
    "policy": NoMix(),
    "seed": 1,
    "stop_mixing": 0.8,
    "warmup_epochs": 5,
    "image_size": 8,
    "train_size": 100,
    "dedup": True,
    "meta_size": 999,
    "meta_in_training": True,
    "equal_steps": True,
    "width": 16,
    "batchnorm_momentum": 0.01,
    "batchnorm_eps": 1e-3,
    "weights": "w.pt",
    "augment": "own:crop",
    "epochs": 599,
    "batch_size": 127,
    "meta_batch_size": 127,
    "lr": 0.1000001,
    "optimizer": "adam",
    "momentum": 0.8,
    "weight_decay": 0.0,
    "schedule": "step",
    "milestones": (30,),
    "lr_decay": 0.2,
    "flip": False,
    "translate": 2,
    "label_noise": 0.4,
    "label_noise_kind": "pair",
    "labels": "mine.txt#0123456789abcdef",
    "meta_noise": True,
    "checked": "checked.npy#0123456789abcdef",
    "left_out": "ff00",
    "loss": "smoothed",
    "loss_strength": 0.2,
    "sampling": "balanced",
    "class_weights": "inverse",
    "logit_adjustment": 0.5,
    "imbalance": 50.0,
    "folds": 5,
    "fold": 1,
    "normalisation": "unit",
    "padding": "reflect",
    "noise": 0.15,
    "semi": SemiSupervisedConfig("pseudo-label", labelled=100),
    "analysis": AnalysisConfig(),
}

POLICIES = [
    NoMix(),
    Beta(alpha=1.0, per_sample=True),
    Beta(alpha=0.1 + 0.2),
    Beta(alpha=0.3),
    Fixed(lam=0.3),
    Fixed(lam=0.5),
    LearnedConfig(reading=PAPER),
    LearnedConfig(reading=DEFAULT),
    LearnedConfig(permute=True, reading=DEFAULT),
    LearnedConfig(reading=DEFAULT, last_blocks=1),
    LearnedConfig(reading=DEFAULT, last_blocks=2),
    LearnedConfig(reading=DEFAULT, refresh_every=2),
    LearnedConfig(reading=DEFAULT, every=2),
    LearnedConfig(reading=DEFAULT, refresh_every=2, every=2),
    LearnedConfig(permute=True, reading=DEFAULT, every=2),
    Frozen(quantiles=(0.1, 0.9)),
    Frozen(quantiles=(0.1, 0.2 + 0.1, 0.9)),
    Frozen(quantiles=(0.1, 0.3, 0.9)),
    ScoresConfig(),
    ScoresConfig(reading=DEFAULT),
    ScoresConfig(every=4),
    ScoresConfig(permute=True),
    LearnedBetaConfig(),
    LearnedBetaConfig(begin=0.5, every=4),
    LearnedBetaConfig(bounds=(0.1, 2.0), objective="brier"),
    LearnedBetaConfig(permute=True),
    ScoresConfig(mixing="area"),
    ScoresConfig(mixing="area", permute=True),
    CutMix(),
    CutMix(probability=1.0),
    ScoresConfig(exchange=True),
    FrozenScheduleConfig(((0.1, 0.9),)),
    FrozenScheduleConfig(((0.1, 0.9), (0.1, 0.9))),
]


def test_the_id_is_the_one_that_is_on_disk_already() -> None:
    assert CELL.id == GOLDEN


@pytest.mark.parametrize("golden", GOLDENS)
def test_settings_that_came_later_leave_older_ids_alone(golden: str) -> None:
    method, policy = GOLDENS[golden]
    assert Cell(method, replace(TRAINING, policy=policy)).id == golden


def test_a_result_stored_before_those_settings_is_found_and_read(
    tmp_path: Path, make_record: MakeRecord
) -> None:
    cell = Cell("metamixup", replace(TRAINING, policy=LearnedConfig(reading=DEFAULT)))
    store = CellStore(tmp_path)
    store.save(replace(make_record(), cell=cell))
    path = store.directory(cell.id) / "result.json"
    stored = json.loads(path.read_text())
    for name in ("last_blocks", "refresh_every", "every", "quantiles"):
        del stored["config"]["policy"][name]
    later = "label_noise label_noise_kind imbalance folds fold analysis optimizer normalisation"
    for name in (*later.split(), "padding", "noise", "semi"):
        del stored["config"][name]
    path.write_text(json.dumps(stored))
    loaded = store.load("metamixup-digits-s0-0a4d07d3")
    assert loaded is not None
    assert loaded.cell == cell


def test_equal_cells_have_equal_ids_however_they_were_made() -> None:
    again = TrainingConfig(
        seed=0, policy=Beta(per_sample=False, alpha=1.0), model="digits_cnn", dataset="digits"
    )
    assert Cell(training=again, method="beta-1").id == GOLDEN
    assert Cell.from_dict(json.loads(json.dumps(CELL.to_dict()))).id == GOLDEN


def test_any_other_value_of_any_setting_gives_another_id() -> None:
    assert set(OTHER_VALUES) == {field.name for field in fields(TrainingConfig)}
    trial = replace(CELL, purpose="search")
    cells = [CELL, replace(CELL, method="beta-2"), trial, replace(trial, parallel=2)]
    # The kind of noise means nothing without noise, nor a fold without folds, nor what a shift
    # lets in without one.
    needs = {
        "label_noise_kind": {"label_noise": OTHER_VALUES["label_noise"]},
        "meta_noise": {"label_noise": 0.3},
        "loss_strength": {"loss": "gce"},
        "equal_steps": {"meta_in_training": True},
        "fold": {"folds": OTHER_VALUES["folds"]},
        "padding": {"translate": OTHER_VALUES["translate"]},
    }
    cells += [
        replace(CELL, training=replace(TRAINING, **needs.get(name, {}), **{name: value}))
        for name, value in OTHER_VALUES.items()
    ]
    cells += [replace(CELL, training=replace(TRAINING, policy=policy)) for policy in POLICIES[1:]]
    digests = [cell.id.rsplit("-", 1)[1] for cell in cells]
    assert len(set(digests)) == len(cells)
    assert all(re.fullmatch("[0-9a-f]{8}", digest) for digest in digests)


SEMI = SemiSupervisedConfig("pseudo-label", 100, threshold_step=0.05)


def test_what_is_not_the_default_of_a_semi_supervised_method_is_in_the_id_and_json() -> None:
    def digest(semi: SemiSupervisedConfig) -> str:
        cell = Cell("apl", replace(TRAINING, semi=semi))
        assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
        return cell.id

    # As it is on disk: a field that comes later, at its default, must leave it alone.
    assert digest(SEMI) == "apl-digits-s0-a85f0bb4"
    others = [
        replace(SEMI, labelled=200),
        replace(SEMI, threshold_step=0.1),
        replace(SEMI, threshold_period=6),
        replace(SEMI, threshold_formula="literal"),
        replace(SEMI, weight=2.0),
        replace(SEMI, ramp="linear", ramp_share=0.1),
        SemiSupervisedConfig("mixmatch", 100, ema=0.9),
        SemiSupervisedConfig("mixmatch", 100, ema=0.99),
    ]
    assert len({digest(semi) for semi in [SEMI, *others]}) == 1 + len(others)


def test_the_id_can_be_read_and_can_be_a_folder() -> None:
    training = replace(
        TRAINING, dataset="folder:/home/me/très long/" + "x" * 50 + "/ima ges", seed=7
    )
    cell = Cell("beta-search", training, purpose="search")
    assert cell.id.startswith("beta-search-trial-")
    assert "-s7-" in cell.id
    assert re.fullmatch(r"[A-Za-z0-9_.+-]{1,100}", cell.id)
    assert "x_ima_ges" in cell.id


EPOCH = {"epoch": 1.0, "train_seconds": 0.5, "samples_seen": 10.0}


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: f"{p.kind}")
def test_cells_and_records_survive_json(policy: PolicyConfig) -> None:
    training = replace(TRAINING, policy=policy, schedule="step", milestones=(3, 5))
    cell = Cell("row+meta", training, purpose="search")
    record = CellRecord(cell, "diverged", PartialResult.of([EPOCH]), "NaN", {"device": "cpu"})
    assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
    assert CellRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_a_stored_result_says_what_it_is_of(tmp_path: Path, make_record: MakeRecord) -> None:
    record = make_record("beta-1", 3, test_error=4.5)
    CellStore(tmp_path).save(record)
    path = tmp_path / "cells" / record.cell.id / "result.json"
    stored = json.loads(path.read_text())
    expected = {
        "schema": 1,
        "cell_id": record.cell.id,
        "method": "beta-1",
        "dataset": "digits",
        "seed": 3,
        "purpose": "final",
        "status": "finished",
        "error": None,
        "environment": {"device": "cpu"},
    }
    assert {key: stored[key] for key in expected} == expected
    assert stored["config"]["policy"]["alpha"] == 1.0
    assert stored["result"]["test_error"] == 4.5
    assert set(stored) == {*expected, "config", "result"}


def test_numbers_come_back_bit_for_bit(tmp_path: Path, make_record: MakeRecord) -> None:
    record = make_record(test_error=100 / 3, val_error=0.1 + 0.2, train_loss=float("inf"))
    store = CellStore(tmp_path)
    store.save(record)
    assert store.load(record.cell.id) == record


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_result_of_before(
    tmp_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    store = CellStore(tmp_path)
    before = make_record(test_error=5.0)
    store.save(before)
    folder = store.directory(before.cell.id)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(StoreError, match="No space left on device") as caught:
            store.save(make_record(test_error=1.0))
    message = str(caught.value)
    assert str(folder / "result.json") in message
    assert "free space or choose another output folder" in message
    assert store.load(before.cell.id) == before
    assert [path.name for path in folder.iterdir()] == ["result.json"]


def test_an_output_folder_that_is_a_file_is_named(tmp_path: Path, make_record: MakeRecord) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(StoreError, match=r"results/cells/.*result\.json"):
        CellStore(tmp_path / "results").save(make_record())


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "null",
        lambda text: text.replace('"config"', '"konfig"'),
        lambda text: "\udcff",
    ],
)
def test_a_damaged_result_is_named_with_the_way_out(
    tmp_path: Path, make_record: MakeRecord, damage: Callable[[str], str]
) -> None:
    store = CellStore(tmp_path)
    record = make_record()
    store.save(record)
    path = store.directory(record.cell.id) / "result.json"
    path.write_bytes(damage(path.read_text()).encode(errors="surrogateescape"))
    for read in (lambda: store.load(record.cell.id), store.records):
        with pytest.raises(StoreError) as caught:
            read()
        assert str(path) in str(caught.value)
        assert f"delete {path.parent} to train that cell again" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"momentum"', '"impulse"', "impulse"),
        ('"kind": "beta"', '"kind": "gamma"', "gamma"),
        ('"optimizer": "sgd"', '"optimizer": "refused by now"', "refused by now"),
    ],
)
def test_a_result_of_another_version_is_not_to_be_deleted(
    tmp_path: Path, make_record: MakeRecord, old: str, new: str, named: str
) -> None:
    store, record = CellStore(tmp_path), make_record()
    store.save(record)
    path = store.directory(record.cell.id) / "result.json"
    path.write_text(path.read_text().replace(old, new))
    for read in (lambda: store.load(record.cell.id), store.records):
        with pytest.raises(StoreError, match="is of another version, or of code of your") as caught:
            read()
        assert str(path) in str(caught.value)
        assert named in str(caught.value)
        assert "delete" not in str(caught.value)


def test_a_training_cut_short_keeps_its_cost_and_its_curve() -> None:
    history = [
        {"epoch": 1.0, "val_error": 50.0, "train_seconds": 1.5, "samples_seen": 100.0},
        {"epoch": 2.0, "val_error": 40.0, "train_seconds": 3.25, "samples_seen": 200.0},
    ]
    expected = {"history": history, "epochs": 2, "train_seconds": 3.25, "samples_seen": 200}
    assert PartialResult.of(history).to_dict() == expected
    nothing = {"history": [], "epochs": 0, "train_seconds": 0.0, "samples_seen": 0}
    assert PartialResult.of([]).to_dict() == nothing


def test_an_analysis_is_known_by_what_it_asks_for() -> None:
    """By the settings that differ from its defaults, so that one added later leaves ids alone."""
    ids = [
        Cell("beta-1", replace(TRAINING, analysis=analysis)).id
        for analysis in (
            None,
            AnalysisConfig(),
            AnalysisConfig(pair_epochs=(3,)),
            AnalysisConfig(pair_epochs=(3, 30)),
            AnalysisConfig(mixed_samples=3),
            AnalysisConfig(unmixed_images=3),
        )
    ]
    plain = replace(TRAINING, model="cnn_2d")
    ids += [
        Cell("beta-1", training).id
        for training in (plain, replace(plain, analysis=AnalysisConfig(plane_images=3)))
    ]
    assert len(set(ids)) == len(ids)
    assert ids[0] == GOLDEN
    assert ids[3] == "beta-1-digits-s0-fbd41ce0"
    cell = Cell("beta-1", replace(TRAINING, analysis=AnalysisConfig(pair_epochs=(3, 30))))
    assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
