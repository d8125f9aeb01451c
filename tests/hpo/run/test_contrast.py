"""A study of Python objects: found again by the same call, told apart, refused in a line."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import hpo
from core.policies import Beta, LearnedConfig, NoMix
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.cells.store import CellStore, StoreError
from hpo.cluster import here
from hpo.run.contrast import Contrast
from hpo.search.spaces import BETA_ALPHA
from hpo.search.strategies import Sampled
from hpo.study.study_run import StudyError
from tests.support.refusals import refused_in_a_line

X = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


STRATEGY = hpo.StudyRow(
    hpo.Row("sampled", "Sampled", "", "beta"), Sampled(Beta(alpha=1.0), BETA_ALPHA)
)


def net(in_channels: int, num_classes: int) -> nn.Module:
    return nn.Linear(in_channels, num_classes)


@pytest.fixture
def run(tmp_path: Path, nothing_drawn: None) -> Callable[..., Contrast]:
    """run(**changes) of a small contrast, in this process."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    plain = {"model": net, "train": (X, Y), "test": (X, Y), "policies": ["none", "beta-1"]}
    plain |= {"seeds": 2, "epochs": 2, "workers": 0, "batch_size": 8, "output": tmp_path / "out"}
    return lambda **changes: hpo.contrast(**{**plain, "tracking_uri": uri, **changes})


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the cells that are trained from now on."""
    ids, original = [], here.train_cell

    def noted(config: Any, **options: Any) -> None:
        ids.append(Cell.from_dict(config["cell"]).id)
        original(config, **options)

    monkeypatch.setattr(here, "train_cell", noted)
    return ids


def test_it_returns_records_and_table_and_goes_on(run: Any, trained: list[str]) -> None:
    first = run(seeds=1)
    assert len(trained) == 2
    result = run()
    assert len(trained) == 4 == len(set(trained))
    assert [r.cell.id for r in result.records] == sorted(trained)
    assert result.table["method"].tolist() == ["none", "beta-1"]
    assert result.table["n_seeds"].tolist() == [2, 2]
    assert str(result) == result.text
    assert "No MixUp" in result.text
    assert {path.name for path in result.files} >= {"contrast.csv", "contrast.md", "contrast.png"}
    for record in first.records:
        assert record.to_dict() in [r.to_dict() for r in result.records]


def test_without_ray_no_cluster_is_asked(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # where nothing answers
    assert len(run(seeds=1).records) == 2
    with pytest.raises(ConnectionError, match=r"RAY_ADDRESS=127\.0\.0\.1:1: no Ray cluster"):
        run(seeds=1, workers=1)


@pytest.mark.parametrize(
    ("precision", "computes", "told"),
    [("bf16", False, True), ("bf16", True, False), ("float32", False, False)],
)
def test_a_precision_that_the_processor_lacks_is_told_before_the_first_training(
    run: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    computes: bool,
    told: bool,
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: computes)
    run(seeds=1, epochs=1, policies=["none"], precision=precision)
    said = capsys.readouterr().err
    assert ("precision bf16: this processor has no such arithmetic" in said) == told
    run(seeds=1, epochs=1, policies=["none"], precision=precision)
    assert "no such arithmetic" not in capsys.readouterr().err  # nothing is left to train


def test_a_pruned_trial_that_cannot_be_written_ends_the_study(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its search would run for ever, and rows that wait for it be missing without a word."""

    def full(store: CellStore, record: CellRecord) -> None:
        if record.status == "pruned":
            raise StoreError("no space left")
        save(store, record)

    save = CellStore.save
    monkeypatch.setattr(CellStore, "save", full)
    monkeypatch.setattr("hpo.cluster.trainable.REPORT_SECONDS", 0.0)  # so that epochs are told
    monkeypatch.setattr("hpo.search.halving.SuccessiveHalving.prune", lambda *_: True)
    recipe = hpo.Searched(Beta(alpha=1.0), BETA_ALPHA)
    searched = hpo.StudyRow(hpo.Row("mine", "Mine", "", "beta"), recipe)
    with pytest.raises(StoreError, match="no space left"):
        run(policies=["none", searched])


def test_what_is_left_over_is_no_success(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo.study.study_run.StudyRun.next", lambda _: None)
    with pytest.raises(StudyError, match="run the same command again"):
        run()


@pytest.mark.parametrize("verbosity", [optuna.logging.INFO, optuna.logging.ERROR])
def test_the_callers_process_is_as_it_was(run: Any, verbosity: int) -> None:
    """Its random streams, its folder, and what its own Optuna studies say."""

    def state() -> list[Any]:
        numbers = str(np.random.get_state())  # noqa: NPY002  (the global stream)
        streams = torch.get_rng_state().tolist(), random.getstate(), numbers
        return [*streams, Path.cwd(), torch.get_num_threads(), optuna.logging.get_verbosity()]

    optuna.logging.set_verbosity(verbosity)
    try:
        before = state()
        run(seeds=1, policies=["none"], optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
            name="mine")  # fmt: skip
        assert state() == before
    finally:
        optuna.logging.set_verbosity(optuna.logging.INFO)


def test_a_module_begins_with_its_weights_and_others_are_refused(
    run: Any, trained: list[str]
) -> None:
    torch.manual_seed(0)
    module = nn.Linear(5, 2)
    before = module.weight.clone()
    run(model=module, seeds=1, lr=1e-9, policies=["none"])
    again = nn.Linear(5, 2)
    again.load_state_dict(module.state_dict())
    result = run(model=again, seeds=1, lr=1e-9, policies=["none"])
    assert len(trained) == 1  # the same weights are the same model
    assert torch.equal(module.weight, before)
    with torch.no_grad():
        z = torch.from_numpy((X - X.mean(0)) / X.std(0))
        errors = (module(z).argmax(1).numpy() != Y).mean() * 100
    assert abs(result.records[0].trained.test_error - errors) < 3  # normalized on fewer items
    with pytest.raises(StoreError, match="or from other weights"):
        run(model=nn.Linear(5, 2), seeds=1, lr=1e-9, policies=["none"])
    run(model=nn.Sequential(nn.Linear(5, 2)), seeds=1, policies=["none"])  # another network


@pytest.mark.parametrize("setting", ["labels", "checked"])
def test_a_file_of_labels_that_changed_is_another_training(
    run: Any, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """Its name may be relative, as in a script beside it; its numbers make the difference."""
    monkeypatch.chdir(tmp_path)
    numbers = np.ones(40, int)
    spellings = ["mine.npy", Path("mine.npy"), tmp_path / "mine.npy"]
    for file in spellings if setting == "labels" else spellings[:1]:
        np.save("mine.npy", numbers)
        run(seeds=1, policies=["none"], **{setting: file})
    assert len(trained) == 1
    numbers[::5] = 0
    np.save("mine.npy", numbers)
    run(seeds=1, policies=["none"], **{setting: "mine.npy"})
    assert len(trained) == 2


def test_objects_of_each_kind_take_part(run: Any) -> None:
    class Items(Dataset[Any]):
        def __len__(self) -> int:
            return len(X)

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return torch.from_numpy(X[i]), int(Y[i])

    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    result = run(
        model=lambda in_channels: nn.Linear(in_channels, 2),
        train=Items(),
        test=TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
        augment=double,
        optimizer=lambda params: torch.optim.AdamW(params, lr=0.03),
        schedule=lambda step, lr: lr,
        name="mine",
        seeds=1,
        policies=[Beta(alpha=0.3), LearnedConfig(), LearnedConfig(permute=True), NoMix()],
    )
    assert result.table["method"].tolist() == ["beta-0.3", "metamixup", "placebo", "none"]
    training = result.records[0].cell.training
    assert training.optimizer == "given:optimizer.mine"
    assert training.lr == 0.03  # the factory's own
    assert {metrics["lr"] for metrics in result.records[0].trained.history} == {0.03}


@pytest.mark.parametrize("name", [None, "mine"])
def test_what_a_default_or_an_attribute_makes_different_trains_anew(
    run: Any, trained: list[str], name: str | None
) -> None:
    """Whatever the call is named."""

    def factory(width: int) -> Callable[..., nn.Module]:
        def sized(in_channels: int, num_classes: int, width: int = width) -> nn.Module:
            return nn.Sequential(nn.Linear(in_channels, width), nn.Linear(width, num_classes))

        return sized

    class Signed(nn.Linear):
        def __init__(self, sign: int) -> None:
            super().__init__(5, 2)
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)
            self.signs = [sign]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.signs[0] * x)

    for given in (factory(1), factory(64), Signed(1), Signed(-1)):
        before = len(trained)
        run(model=given, seeds=1, policies=["none"], name=name)
        assert len(trained) == before + 1
        run(model=given, seeds=1, policies=["none"], name=name)
        assert len(trained) == before + 1


def test_a_module_that_every_process_shows_otherwise_needs_a_name(
    run: Any, trained: list[str]
) -> None:
    class Shown(nn.Linear):
        def extra_repr(self) -> str:
            return f"{object()!r}, {self.rate}"

        def __init__(self, rate: float) -> None:
            super().__init__(5, 2)
            self.rate = rate
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)

    with pytest.raises(ValueError, match=r"model is a Shown, .*give the call a name="):
        run(model=Shown(0.1), seeds=1, policies=["none"])
    for rate in (0.1, 0.1, 0.5):
        run(model=Shown(rate), seeds=1, policies=["none"], name="mine")
    assert len(trained) == 2


def test_a_partial_is_known_by_its_arguments(run: Any) -> None:
    rate = partial(torch.optim.SGD, lr=0.5, nesterov=True)
    training = run(optimizer=rate, seeds=1, policies=["none"]).records[0].cell.training
    assert training.optimizer == "torch.optim.sgd:SGD?lr=0.5&nesterov=True"
    assert training.lr == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": lambda: net(5, 2)}, r"model is a lambda, .*give the call a name="),
        ({"augment": partial(np.add, object())}, "augment is a partial, .*name="),
        ({"optimizer": 3}, "optimizer must be a name or something to call, got int"),
        ({"model": nn.Flatten()}, "has no trainable parameter"),
        ({"train": (X, Y[:3])}, "data: train has 40 items and 3 labels"),
        ({"train": Y}, r"data: train\[0\] gives no .item, label."),
        ({"policies": ["beta"]}, "unknown policy 'beta'; choose among .*, beta-NUMBER"),
        ({"policies": ["fixed-2"]}, "fixed-2: .*, got 2.0; write fixed-0.5"),
        ({"policies": ["metamixup+meta"]}, r"row metamixup learns from .*: no metamixup\+meta"),
        ({"policies": ["mixup"]}, "unknown policy 'mixup'; choose among none, beta-search"),
        ({"policies": "none"}, "must be a list of at least one, got 'none'"),
        ({"policies": ["none", NoMix()]}, "policy none is given 2 times"),
        ({"policies": ["frozen"]}, "draws λ from what row metamixup learned"),
        ({"policies": [3]}, "3 is no policy"),
        ({"policies": ["none", STRATEGY]}, "policy sampled is a strategy, .* hpo.Searched recipe"),
        ({"seed": 3}, "'seed' is no setting of contrast; choose among model"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"seeds": [0, 1]}, r"seeds must be a whole number, got \[0, 1\]"),
        ({"epochs": "3"}, "epochs must be a whole number, got '3'"),
        ({"workers": 0.5}, "workers must be a whole number, got 0.5"),
        ({"lr": "0.1"}, "lr must be a number, got '0.1'"),
        ({"meta_size": "9"}, "meta_size must be a whole number, got '9'"),
        ({"model": None}, "model must be a name or something to call, got NoneType"),
        ({"name": "../../x"}, "name must be a word for files, without slashes, got '../../x'"),
        ({"name": "a/b"}, "without slashes, got 'a/b'"),
        ({"checked": Y}, "checked must be a file, got ndarray; write it to one"),
        ({"labels": "absent.npy"}, "absent.npy cannot be read: FileNotFoundError"),
        ({"device": "tpu"}, "device must be auto, cpu, cuda or mps, got 'tpu'"),
        ({"device": "cuda:0"}, "got 'cuda:0'; of several GPUs CUDA_VISIBLE_DEVICES says which"),
        ({"output": ""}, r"output names no folder \(it is empty\)"),
        ({"tracking_uri": ""}, r"tracking_uri names no store \(it is empty\); leave it out"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"optimizer": "torch.optim:SGD?lr=0.3", "lr": 0.1}, "name two learning rates"),
        ({"address": "auto"}, "address='auto' names a Ray cluster, and workers=0 trains here"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_the_first_training(
    run: Any, trained: list[str], changes: dict[str, Any], message: str
) -> None:
    with refused_in_a_line(message):
        run(**changes)
    assert trained == []
