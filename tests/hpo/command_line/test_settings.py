"""Every setting of a training, from the command line to the training."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from core.data import with_fingerprint
from core.policies import NoMix
from core.semi_supervised.config import NEEDED
from hpo.command_line import Options, parse
from hpo.command_line.flags import flag
from hpo.command_line.settings import OWNED, settings
from hpo.study import presets
from hpo.study.few_label_rows import with_presets
from hpo.study.plan import source_key
from hpo.study.rows import Row, SemiRow, StudyRow
from tests.hpo.command_line.test_options import source_of

GIVEN: dict[str, tuple[str, Any]] = {
    "model": ("--model preact_resnet18", "preact_resnet18"),
    "image_size": ("--image-size 8", 8),
    "train_size": ("--train-size 300", 300),
    "meta_size": ("--meta-size 30", 30),
    "weights": ("--weights /of/mine/net.pt", "/of/mine/net.pt"),
    "width": ("--width 12", 12),
    "batchnorm_momentum": ("--batchnorm-momentum 0.01", 0.01),
    "batchnorm_eps": ("--batchnorm-eps 0.001", 0.001),
    "epochs": ("--epochs 7", 7),
    "batch_size": ("--batch-size 32", 32),
    "meta_batch_size": ("--meta-batch-size 16", 16),
    "lr": ("--lr 0.025", 0.025),
    "optimizer": ("--optimizer adam", "adam"),
    "momentum": ("--momentum 0.5", 0.5),
    "weight_decay": ("--weight-decay 0.01", 0.01),
    "schedule": ("--schedule step", "step"),
    "stop_mixing": ("--stop-mixing 0.8", 0.8),
    "warmup_epochs": ("--warmup-epochs 5", 5),
    "milestones": ("--milestones 2,4", [2, 4]),
    "lr_decay": ("--lr-decay 0.5", 0.5),
    "flip": ("--flip", True),
    "translate": ("--translate 3", 3),
    "augment": ("--augment my.file:flip", "my.file:flip"),
    "label_noise": ("--label-noise 0.4", 0.4),
    "label_noise_kind": ("--label-noise-kind pair", "pair"),
    "meta_noise": ("--meta-noise", True),
    "dedup": ("--dedup", True),
    "loss": ("--loss elr", "elr"),
    "loss_strength": ("--loss-strength 0.25", 0.25),
    "sampling": ("--sampling balanced", "balanced"),
    "class_weights": ("--class-weights effective", "effective"),
    "logit_adjustment": ("--logit-adjustment 1.5", 1.5),
    "imbalance": ("--imbalance 50", 50.0),
    "folds": ("--folds 5", 5),
    "fold": ("--fold 4", 4),
    "normalisation": ("--normalisation unit", "unit"),
    "padding": ("--padding reflect", "reflect"),
    "noise": ("--noise 0.1", 0.1),
    "precision": ("--precision bf16", "bf16"),
    "memory_format": ("--memory-format channels_last", "channels_last"),
    "analysis.unmixed_images": ("--analysis.unmixed-images 5", 5),
    "analysis.pair_epochs": ("--analysis.pair-epochs 1,3", [1, 3]),
    "analysis.plane_images": ("--analysis.plane-images 4", 4),
    "analysis.mixed_samples": ("--analysis.mixed-samples 3", 3),
    "analysis.curvature_pairs": ("--analysis.curvature-pairs 2", 2),
}
"""For each setting a flag, and the value that it makes."""

NEEDS = {
    "label_noise_kind": ("label_noise", "--label-noise 0.2", 0.2),
    "meta_noise": ("label_noise", "--label-noise 0.2", 0.2),
    "loss_strength": ("loss", "--loss gce", "gce"),
    "fold": ("folds", "--folds 5", 5),
    "padding": ("translate", "--translate 1", 1),
    "analysis.plane_images": ("model", "--model cnn_2d", "cnn_2d"),
    "analysis.curvature_pairs": ("model", "--model cnn_smooth", "cnn_smooth"),
}
"""Settings that have no use alone, with one that gives it to them."""

FEW_LABELS: dict[str, tuple[str, str, Any]] = {
    "semi.unlabelled_batch": ("apl", "--semi.unlabelled-batch 20", 20),
    "semi.weight": ("pi-model", "--semi.weight 3", 3.0),
    "semi.ramp": ("vat", "--semi.ramp linear", "linear"),
    "semi.ramp_share": ("vat", "--semi.ramp-share 0.5", 0.5),
    "semi.ema": ("mean-teacher", "--semi.ema 0.9", 0.9),
    "semi.threshold": ("pseudo-label", "--semi.threshold 0.8", 0.8),
    "semi.threshold_step": ("pseudo-label", "--semi.threshold-step 0.1", 0.1),
    "semi.threshold_period": ("apl", "--semi.threshold-period 3", 3),
    "semi.threshold_formula": ("apl", "--semi.threshold-formula literal", "literal"),
    "semi.epsilon": ("vat", "--semi.epsilon 2.5", 2.5),
    "semi.xi": ("vat", "--semi.xi 1e-6", 1e-6),
    "semi.power_iterations": ("vat", "--semi.power-iterations 2", 2),
    "semi.entropy": ("vat", "--semi.entropy 0.1", 0.1),
    "semi.temperature": ("mixmatch", "--semi.temperature 0.7", 0.7),
    "semi.augmentations": ("mixmatch", "--semi.augmentations 4", 4),
    "semi.dominant": ("mixmatch", "--no-semi.dominant", False),
}
"""For each setting of few labels a method that has a use for it, a flag and its value."""


@pytest.fixture(autouse=True)
def small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.data.load_source", lambda name, root, image_size: source_of(500))


def options_of(flags: str, semi: bool = False) -> Options:
    return parse("table2", "", ["--dataset", "mnist", *flags.split()], semi_supervised=semi)


def few_label_rows(flags: str, *methods: str, **settings: Any) -> list[StudyRow]:
    """Returns the rows of a study of few labels, a row for each method, under these flags."""
    options = options_of(flags, semi=True)
    training, source = options.load("mnist")
    rows = [StudyRow(Row(m, m, "", "none"), NoMix(), semi=SemiRow(m, settings)) for m in methods]
    sources = {source_key(training): source}
    return with_presets(rows, {"mnist": training}, sources, "quick", options.overrides)


def test_every_setting_that_no_row_owns_is_tested() -> None:
    assert settings().keys() - OWNED.keys() == GIVEN.keys() | {"labels", "checked"}
    plain = {name for name in GIVEN if "." not in name}
    assert settings(semi_supervised=True).keys() - OWNED.keys() == plain | FEW_LABELS.keys() | {
        "checked"
    }


@pytest.mark.parametrize("name", GIVEN)
def test_a_setting_replaces_that_of_the_preset_alone(name: str) -> None:
    flags, value = GIVEN[name]
    changes = {name: value}
    if name in NEEDS:
        other, more, changes[other] = NEEDS[name]
        flags = f"{flags} {more}"
    before = options_of("").load("mnist")[0].to_dict()
    options = options_of(flags)
    assert options.overrides.keys() == changes.keys()
    training = options.load("mnist")[0].to_dict()
    analysis = training["analysis"] or {}
    part = {f"analysis.{field}": value for field, value in analysis.items()}
    assert {field: {**training, **part}[field] for field in changes} == changes
    untouched = before.keys() - changes.keys() - {"analysis"}
    assert {field: training[field] for field in untouched} == {
        field: before[field] for field in untouched
    }
    assert bool(analysis) == name.startswith("analysis.")


def test_labels_are_a_file_or_in_a_study_of_few_labels_a_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("1\n0\n")
    labels = options_of(f"--labels {file}").overrides["labels"]
    assert labels == with_fingerprint(str(file))
    assert options_of("--labels 40", semi=True).labels == 40
    for semi in (False, True):
        checked = options_of(f"--checked {file}", semi=semi).overrides["checked"]
        assert checked == with_fingerprint(str(file))
    file.write_text("1\ncat\n")
    with pytest.raises(SystemExit):
        options_of(f"--labels {file}")
    assert "mine.txt has 'cat' for image 1; give one integer" in capsys.readouterr().err


def test_the_help_of_few_labels_offers_what_its_trainings_take(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        options_of("--help", semi=True)
    offered = set(capsys.readouterr().out.replace(",", " ").split())
    taken = set()
    for name, (flags, _) in GIVEN.items():
        more = NEEDS[name][1] if name in NEEDS else ""
        if "." not in name:
            with contextlib.suppress(ValueError):
                options_of(f"{flags} {more}", semi=True).load("mnist")
                taken.add(name)
    assert {name for name in GIVEN if flag(name) in offered} == taken
    assert {"loss", "stop_mixing", "imbalance"} <= GIVEN.keys() - taken


@pytest.mark.parametrize("name", FEW_LABELS)
def test_a_setting_of_few_labels_reaches_the_methods_that_have_a_use_for_it(name: str) -> None:
    method, flags, value = FEW_LABELS[name]
    methods = ("supervised-only", "pi-model", "mean-teacher", "vat", "apl", "mixmatch", method)
    rows = few_label_rows(flags, *methods)
    field = name.removeprefix("semi.")
    assert getattr(rows[-1].by_dataset["mnist"]["semi"], field) == value
    for row, plain in zip(rows, few_label_rows("", *methods), strict=True):
        semi, before = row.by_dataset["mnist"]["semi"], plain.by_dataset["mnist"]["semi"]
        used = field in NEEDED[semi.kind]
        assert getattr(semi, field) == (value if used else getattr(before, field))


def test_a_rows_own_setting_goes_first_and_one_without_use_is_refused() -> None:
    [row] = few_label_rows("--semi.threshold 0.8 --semi.weight 2", "apl", threshold=0.6)
    semi = row.by_dataset["mnist"]["semi"]
    assert (semi.threshold, semi.weight) == (0.6, 2.0)
    with pytest.raises(ValueError, match=r"--semi\.threshold 0\.8: none of these rows has a use"):
        few_label_rows("--semi.threshold 0.8", "mixmatch", "vat")


def test_the_command_line_knows_none_and_no() -> None:
    training, _ = options_of("--train-size none --width none --no-flip").load("mnist")
    assert (training.train_size, training.width, training.flip) == (None, None, False)
    assert presets.training("mnist", "quick").train_size is not None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--epochs 0", "epochs must be at least 1, got 0"),
        ("--lr -0.1", "lr must be positive and finite, got -0.1"),
        ("--lr nan", "lr must be positive and finite, got nan"),
        ("--label-noise 40", r"label_noise must lie in \[0, 1\], got 40.0"),
        ("--label-noise-kind pair", "label_noise_kind='pair' has no use without label_noise"),
        ("--imbalance 0.02", "imbalance must be finite and at least 1, got 0.02"),
        ("--analysis.plane-images -1", "plane_images must be at least 0, got -1"),
        ("--optimizer adam --momentum 0.5", "adam has no use for momentum=0.5; leave it out"),
    ],
)
def test_a_setting_out_of_range_is_named(flags: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options_of(flags).load("mnist")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model vgg", "argument --model: invalid choice: 'vgg'"),
        ("--label-noise-kind asymmetric", "invalid choice: 'asymmetric'"),
        ("--momentum half", "argument --momentum: invalid float value: 'half'"),
        ("--width wide", "argument --width: invalid int value: 'wide'; give a number or none"),
        ("--milestones 3,x", "argument --milestones: invalid value: '3,x'; give whole numbers"),
        ("--policy learned", "--policy learned: policy is no flag: each row has its own; choose"),
        (
            "--seed 3",
            "--seed 3: seed is no flag: the trainings of a row count theirs from",
        ),
        ("--meta-in-training", "choose such rows with --rows KEY+meta"),
        ("--semi.threshold 0.9", "unrecognized arguments: --semi.threshold"),
    ],
)
def test_what_is_no_value_or_no_flag_is_refused_with_a_way_out(
    flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        options_of(flags)
    assert message in capsys.readouterr().err


def test_settings_that_rows_of_few_labels_own_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for flags, message in (("--semi.kind vat", "with --rows"), ("--semi.labelled 9", "--labels")):
        with pytest.raises(SystemExit):
            options_of(flags, semi=True)
        assert f"{flags}: " in (error := capsys.readouterr().err)
        assert message in error
