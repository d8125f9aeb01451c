"""Table I: its rows and the paper's numbers; then as a user runs it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from core.data import DATASETS
from core.training.optimizers import learning_rate
from hpo.command_line import parse
from hpo.study import presets
from hpo.study.rows import check_sources
from studies import table1

NETWORKS = ["preact_resnet34", "wrn_28_10"]


def _keys(arguments: list[str]) -> list[str]:
    """Returns the keys of the rows that a command line trains."""
    architectures, rest = table1.split_flags(arguments)
    return [row.row.key for row in parse("table1", "", rest).chosen(table1.rows(architectures))]


def test_the_rows_of_the_paper_in_its_order_and_ours_after_them() -> None:
    rows = {row.row.key: row for row in table1.rows()}
    assert list(rows) == [
        "none", "beta-1", "adamixup-no-discriminator", "adamixup", "metamixup-paper",
        "metamixup", "placebo", "frozen", "adamixup-frozen", "adamixup-own", "beta-1-own",
    ]  # fmt: skip
    for key in ("adamixup-no-discriminator", "adamixup", "adamixup-own", "beta-1-own"):
        assert rows[key].row.family == "extra"  # none competes for the best Beta


def test_adamixup_may_have_the_optimizer_of_its_authors_and_mixup_beside_it() -> None:
    rows = {row.row.key: row for row in table1.rows()}
    adamixup, mixup = rows["adamixup-own"], rows["beta-1-own"]
    assert adamixup.policy == rows["adamixup"].policy
    assert mixup.policy == rows["beta-1"].policy
    assert adamixup.row.counterpart == "beta-1-own"
    for name in DATASETS:
        settings = adamixup.settings(name)
        assert settings == mixup.settings(name)
        trained = replace(presets.training(name, "paper"), **settings)
        rates = {epoch: learning_rate(trained, epoch, trained.epochs) for epoch in (0, 29, 30, 100)}
        if name in ("mnist", "fashion_mnist", "digits"):
            assert trained.optimizer == "adam"
            expected, end = [1e-3, 1e-3, 3e-4, 2.7e-5], 1e-3 * 0.3**13
        else:
            assert (trained.optimizer, trained.momentum) == ("sgd", 0.9)
            expected, end = [0.1, 0.1, 0.1, 0.01], 1e-3
        assert list(rates.values()) == pytest.approx(expected)
        assert learning_rate(trained, 599, 600) == pytest.approx(end)
    assert adamixup.settings("folder:mine") == {}


def test_every_architecture_has_all_rows_and_keeps_to_itself() -> None:
    plain, rows = table1.rows(), table1.rows(NETWORKS)
    check_sources(rows)
    assert [row.row.key for row in rows] == [
        f"{row.row.key}@{name}" for name in NETWORKS for row in plain
    ]
    for row in rows:
        name = row.row.key.partition("@")[2]
        assert row.training == {"model": name}
        assert row.row.architecture == name
        assert name in row.row.label
    [frozen] = [row for row in rows if row.row.key == "frozen@wrn_28_10"]
    assert frozen.frozen_from == frozen.row.control_of == "metamixup@wrn_28_10"
    [adamixup] = [row for row in rows if row.row.key == "adamixup-own@wrn_28_10"]
    assert adamixup.row.counterpart == "beta-1-own@wrn_28_10"


def test_the_command_line_names_architectures_and_rows_of_them() -> None:
    flags = ["--architecture", "cnn", "--architecture=digits_cnn", "--architecture", "cnn"]
    assert table1.split_flags(["--seeds", "2"]) == ([], ["--seeds", "2"])
    assert table1.split_flags([*flags, "--epochs", "3"]) == (
        ["cnn", "digits_cnn"],
        ["--epochs", "3"],
    )
    assert _keys(["--rows", "none,adamixup"]) == ["none", "adamixup"]
    both = ["none@cnn", "adamixup@cnn", "none@digits_cnn", "adamixup@digits_cnn"]
    assert _keys([*flags, "--rows", "none,adamixup"]) == both
    assert _keys([*flags, "--rows", "adamixup@cnn,none@digits_cnn"]) == [
        "adamixup@cnn", "none@digits_cnn",
    ]  # fmt: skip
    assert _keys(["--architecture", "cnn", "--rows", "none,none+meta"]) == [
        "none@cnn", "none@cnn+meta",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="unknown row 'adamixup@wrn_28_2'"):
        _keys([*flags, "--rows", "adamixup@wrn_28_2"])


def test_an_unknown_architecture_ends_with_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        table1.split_flags(["--architecture", "resnet18"])
    printed = capsys.readouterr().err
    assert "resnet18" in printed
    assert "preact_resnet34" in printed


def _told() -> dict[tuple[str, str], dict[str, float]]:
    """Returns the table of the docstring, typed a second time: by block and row, numbers by
    column."""
    assert table1.__doc__ is not None
    labels = {
        "Baseline": "none",
        "MixUp": "beta-1",
        "AdaMixUp, no discr.": "adamixup-no-discriminator",
        "AdaMixUp": "adamixup",
        "MetaMixUp": "metamixup-paper",
    }
    columns = ["mnist", "fashion_mnist", "svhn", "cifar10", "cifar100", "imagenet", "top5"]
    results: dict[tuple[str, str], dict[str, float]] = {}
    block = ""
    for line in table1.__doc__.split("Without `--architecture`")[0].splitlines():
        label = next((name for name in labels if line.strip().startswith(f"{name} ")), None)
        if line.strip() in ("PreActResNet-34", "Wide-ResNet-28-10"):
            block = dict(zip(("PreActResNet-34", "Wide-ResNet-28-10"), NETWORKS, strict=True))[
                line.strip()
            ]
        elif label is not None:
            numbers = line.strip()[len(label) :].split()
            names = columns[len(columns) - len(numbers) :]
            results[block, labels[label]] = {
                name: float(value)
                for name, value in zip(names, numbers, strict=True)
                if value != "–"
            }
    return results


def test_the_papers_numbers_are_those_of_the_docstring() -> None:
    stated = _told()
    assert len(stated) == 11
    assert sum(map(len, stated.values())) == 6 * 4 + 2 + 4 + 2 * 3 * 5
    for (block, key), numbers in stated.items():
        top5 = numbers.pop("top5", None)
        assert table1.paper_errors(key, block) == numbers
        given = table1.paper_top5([block] if block else [])
        name = f"{key}@{block}" if block else key
        assert given.get((name, "imagenet")) == top5
    for key in ("none", "beta-1", "adamixup", "metamixup-paper"):
        small, large = (table1.paper_errors(key, name) for name in ("cnn", "preact_resnet18"))
        assert {**small, **large} == table1.paper_errors(key)
        assert set(small) == {"mnist", "fashion_mnist"}
    for key in ("metamixup", "placebo", "frozen", "adamixup-own", "adamixup-frozen"):
        assert table1.paper_errors(key) == {}
    assert table1.paper_errors("none", "wrn_28_2") == {}


@pytest.mark.slow
def test_a_smoke_run_of_two_architectures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nothing_drawn: None
) -> None:
    command = ["--preset", "smoke", "--seeds", "1", "--width", "4", "--output", str(tmp_path)]
    networks = ["--architecture", "digits_cnn", "--architecture", "cnn"]
    rows = ["--rows", "none,beta-1,adamixup,adamixup-no-discriminator@cnn,metamixup@cnn"]
    assert table1.main([*command, *networks, *rows]) == 0
    frame = pd.read_csv(tmp_path / "table1.csv").set_index("method")
    assert len(frame) == 8
    assert (frame["n_seeds"] == 1).all()
    for network in ("digits_cnn", "cnn"):  # no mixing is one of the constants
        two = frame.loc[[f"none@{network}", f"beta-1@{network}"]]
        assert list(two[two["best_beta"]].index) == [two["mean_val_error"].idxmin()]
    assert frame["best_beta"].sum() == 2
    # Two epochs of 100 images in batches of 50; AdaMixUp sends three times as many forward.
    assert frame.loc["adamixup@cnn", "samples_seen"] == 600
    assert frame.loc["adamixup-no-discriminator@cnn", "samples_seen"] == 300
    assert frame.loc["none@cnn", "samples_seen"] == 200
    epochs = pd.read_csv(tmp_path / "table1-adamixup.csv")
    assert len(epochs) == 3 * 2
    assert (epochs["region_low"] < epochs["region_high"]).all()
    assert epochs["discriminator_accuracy"].isna().sum() == 2
    assert (tmp_path / "table1-adamixup.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    for part in ("## digits, digits_cnn", "## digits, cnn", "## AdaMixUp", "own parameters"):
        assert part in printed
    assert "Top-5" not in printed


def _imagenet(root: Path, classes: int, pixels: int) -> Path:
    """Returns a tree in ImageNet's layout: 2 training and 2 validation images of each class."""
    values = np.random.default_rng(0)
    for part, count in (("train", 2), ("val", 2)):
        for number in range(classes):
            folder = root / "imagenet" / part / f"n{number:08d}"
            folder.mkdir(parents=True)
            for i in range(count):
                image = values.integers(0, 256, (pixels, pixels + 20, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / f"{part}_{i}.JPEG")
    return root


@pytest.mark.slow
def test_imagenet_is_streamed_in_crops_and_told_by_both_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nothing_drawn: None
) -> None:
    root = _imagenet(tmp_path / "data", classes=100, pixels=120)
    out = tmp_path / "out"
    command = [
        "--dataset", "imagenet", "--preset", "paper", "--data-root", str(root), "--seeds", "1",
        "--rows", "none,adamixup", "--model", "cnn", "--width", "1", "--epochs", "1",
        "--meta-size", "100", "--output", str(out),
    ]  # fmt: skip
    assert table1.main(command) == 0
    printed = capsys.readouterr().out
    assert "## Top-5 error" in printed
    frame = pd.read_csv(out / "table1-top5.csv").set_index("method")
    assert list(frame["paper_error"]) == [52.84, 49.17]
    assert list(frame["paper_top5_error"]) == [29.48, 25.78]
    # 200 test images, on which chance is 95 %.
    assert (frame["mean_top5_error"] <= frame["mean_error"]).all()
    assert (frame["mean_top5_error"] * 2 % 1 == 0).all()
    assert all(math.isfinite(value) for value in frame["mean_error"])
