"""The loops of docs/learned-alpha.md, run as they stand there."""

from __future__ import annotations

import itertools
import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import core

PAGE = (Path(__file__).parents[2] / "docs" / "learned-alpha.md").read_text(encoding="utf-8")
LOOP, OPTUNA, RAY, LIGHTNING, EVOLVED = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def given() -> dict[str, Any]:
    """Returns what a reader has: a model, loaders, and a way to score."""

    def build() -> nn.Module:
        built.append(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))
        return built[-1]

    torch.manual_seed(0)
    built: list[nn.Module] = []
    model = build()
    loader = [(torch.randn(6, 4), torch.arange(6) % 3) for _ in range(60)]
    reported: list[dict[str, float]] = []
    return {
        "core": core,
        "torch": torch,
        "build": build,
        "built": built,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loader": loader,
        "meta_loader": itertools.cycle(loader[:7]),
        "epochs": 2,
        "score": lambda net: net(loader[0][0]).mean().item(),
        "tune": SimpleNamespace(report=reported.append),
        "reported": reported,
    }


def weights(given: dict[str, Any]) -> torch.Tensor:
    return given["model"][0].weight.detach().clone()


def test_the_loop_learns_alpha_late(given: dict[str, Any]) -> None:
    before = weights(given)
    exec(LOOP, given)
    assert not torch.equal(before, weights(given))
    assert given["policy"].metrics()["alpha"] != 1


def test_when_to_stop_is_learned_by_evolution(given: dict[str, Any]) -> None:
    exec(EVOLVED, given)
    policy = given["policy"]
    for x, y in given["loader"] * 2:
        stepped = policy(given["model"], given["optimizer"], (x, y), (x, y))
        core.mixed_step(given["model"], given["optimizer"], (x, y), stepped)
    assert policy.metrics().keys() >= {"alpha", "alpha_start", "stop"}
    assert policy.metrics()["alpha_start"] != 1


def test_an_objective_of_optuna(given: dict[str, Any]) -> None:
    optuna = pytest.importorskip("optuna", reason="needs Optuna (pip install '.[hpo]')")
    exec(OPTUNA, given)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    before = weights(given)
    study.optimize(given["objective"], n_trials=2)
    assert study.best_params.keys() == {"lr"}
    assert len(given["built"]) == 3  # each trial its own
    assert torch.equal(before, weights(given))


def test_a_trainable_of_ray_tune_reports_alpha(given: dict[str, Any]) -> None:
    exec(RAY, given)
    given["trainable"]({"lr": 0.1})
    (metrics,) = given["reported"]
    assert metrics.keys() == {"error", "alpha", "alpha_signal"}
    assert metrics["alpha"] != 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_module_of_lightning(given: dict[str, Any], tmp_path: Path) -> None:
    import_module("core.data.torchvision_compat")  # before Lightning, which imports torchvision
    lightning = pytest.importorskip("lightning", reason="needs it (pip install '.[examples]')")
    given["L"] = lightning
    exec(LIGHTNING, given)
    before = weights(given)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    module = given["Mixed"](given["model"])
    sets = {
        name: torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.randn(96, 4), torch.arange(96) % 3), batch_size=4
        )
        for name in ("train", "meta")
    }
    trainer.fit(module, lightning.pytorch.utilities.CombinedLoader(sets, "max_size_cycle"))
    assert not torch.equal(before, weights(given))
    assert module.policy.present_alpha != 1
