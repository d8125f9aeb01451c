"""A policy of a user's own: one file with one registration, and everything else knows it."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import core.policies.config
import hpo
from core.data import load_source
from core.policies import NoMix, PolicyConfig
from core.testing import POLICY_CHECKS
from core.training.config import TrainingConfig
from core.training.fit import fit
from hpo.cells.cell import Cell
from hpo.cells.gpu_use import GpuUse
from hpo.cells.record import CellRecord
from hpo.cluster import packing
from hpo.cluster.gpu_memory import Read
from hpo.cluster.here import run_here
from hpo.cluster.trained_policies import own_policies
from hpo.report.records import load_records
from hpo.report.study_figure import study_figure
from hpo.report.table import build_table
from hpo.search.configured import configured
from hpo.search.protocol import SearchSettings
from hpo.search.spaces import Float
from hpo.search.strategies import Listed, Sampled
from hpo.study.plan import Plan
from hpo.study.recipes import FilteredBy, Recipe, Searched
from hpo.study.rows import Row, StudyRow, controls, grid_cost
from hpo.study.study_run import StudyRun

FILE = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from core.mixing.interpolation import Interpolation
from core.mixing.batch import check_batch, draw_partners
from core.policies import Frozen, Policy, PolicyConfig, register_policy


class Brightness(Policy):
    """λ by the mean of the sample, through a layer that learns by the loss of the mixed batch."""

    def __init__(self, share: float = 0.5):
        self.layer, self.share = nn.Linear(1, 1), share

    @property
    def networks(self) -> nn.ModuleList:
        return nn.ModuleList([self.layer])

    def metrics(self) -> dict[str, float]:
        return {"brightness_weight": float(self.layer.weight.detach())}

    def __call__(self, model, optimizer, batch, val_batch=None, *, generator=None, **_):
        check_batch(batch, "training")
        x = batch[0]
        mean = x.flatten(1).mean(1, keepdim=True)
        lam = self.share + (1 - self.share) * torch.sigmoid(self.layer(mean)).squeeze(1)
        partner = draw_partners(len(x), generator=generator, device=x.device)
        return Interpolation(lam, partner, lam.detach())


@register_policy
@dataclass(frozen=True)
class BrightnessConfig(PolicyConfig):
    share: float = 0.5
    kinds: ClassVar = {"brightness": {}}

    def build(self, network=None) -> Brightness:
        return Brightness(self.share)

    def frozen(self, quantiles: tuple[float, ...]) -> Frozen:
        return Frozen(quantiles)
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Yields the user's module. Its kind is unknown again afterwards."""
    path = tmp_path_factory.mktemp("own") / "brightness.py"
    path.write_text(FILE)
    spec = importlib.util.spec_from_file_location("brightness", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        known = core.policies.config._REGISTERED
        patch.setattr(core.policies.config, "_REGISTERED", dict(known))
        patch.setitem(sys.modules, "brightness", module)
        spec.loader.exec_module(module)
        yield module


def training(own: ModuleType, **settings: Any) -> TrainingConfig:
    policy = own.BrightnessConfig(**settings)
    return TrainingConfig(
        "digits", "digits_cnn", policy, train_size=40, meta_size=20, epochs=3, batch_size=16, lr=0.1
    )


@pytest.mark.parametrize("check", POLICY_CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_contract(check: Callable[..., None], own: ModuleType) -> None:
    check(own.Brightness)


def test_it_trains_and_is_resumed_to_the_bit(
    own: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.training.fit.CHECKPOINT_SECONDS", 0.0)
    config, source = training(own), load_source("digits")

    def interrupt(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 2:
            raise KeyboardInterrupt

    whole = fit(config, source=source)
    with pytest.raises(KeyboardInterrupt):
        fit(config, source=source, directory=tmp_path, on_epoch=interrupt)
    resumed = fit(config, source=source, directory=tmp_path)
    assert resumed.policy_parameters == 2
    weights = [[m["brightness_weight"] for m in r.history] for r in (whole, resumed)]
    assert weights[0] == weights[1]
    assert len(set(weights[0])) == 3  # it learns
    assert (resumed.test_error, resumed.lam_quantiles) == (whole.test_error, whole.lam_quantiles)
    assert resumed.lam_quantiles[0] >= 0.5


def test_a_cell_has_an_id_and_survives_json(own: ModuleType) -> None:
    cell = Cell("brightness", training(own, share=0.25))
    assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
    assert cell.training.policy.identity() == {"kind": "brightness", "share": 0.25}
    others = [Cell("brightness", training(own, share=share)) for share in (0.25, 0.3, 0.5)]
    assert [other.id == cell.id for other in others] == [True, False, False]
    # A setting at its default does not enter, so one that is added later changes no id.
    assert training(own).policy.identity() == {"kind": "brightness"}


def test_its_settings_can_be_searched(own: ModuleType) -> None:
    base = training(own)
    assert configured(base, {"share": 0.1, "lr": 0.2}) == replace(training(own, share=0.1), lr=0.2)


def test_it_has_a_cost_a_frozen_control_and_no_placebo(own: ModuleType) -> None:
    policy = own.BrightnessConfig()
    assert policy.cost == 1.0
    row = StudyRow(Row("brightness", "Brightness", "", "learned"), policy)
    assert row.weight == grid_cost([row]) == 1.0
    assert [control.row.key for control in controls(row)] == ["brightness-frozen"]
    with pytest.raises(ValueError, match="policy brightness has no placebo"):
        policy.placebo()


def recipes(policy: PolicyConfig) -> dict[str, Recipe]:
    return {
        "plain": policy,
        "searched": Searched(policy, {"share": Float(0.1, 0.9)}),
        "filtered": FilteredBy(("fold",), policy),
        "sampled": Sampled(policy, {"share": Float(0.1, 0.9)}),
        "listed": Listed((NoMix(), policy)),
    }


@pytest.mark.parametrize("name", recipes(NoMix()))
def test_workers_are_told_of_it_whatever_the_recipe(own: ModuleType, name: str) -> None:
    fold = StudyRow(Row("fold", "Fold", "", "extra"), NoMix())
    row = StudyRow(Row("mine", "Mine", "", "extra"), recipes(own.BrightnessConfig())[name])
    base = {"digits": replace(training(own), policy=NoMix())}
    plan = Plan("mine", [fold, row], ["digits"], range(1), base, SearchSettings(), budget=2.0)
    assert own_policies(plan) == {"given:policy.brightness": own.BrightnessConfig}
    assert own_policies(replace(plan, rows=[fold])) == {}


@contextmanager
def ten_bytes(device: str, share: float) -> Iterator[Read]:
    yield lambda: GpuUse(10, 100, share)


def test_a_process_that_has_not_imported_it_trains_and_measures_it(
    own: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(run: StudyRun, sources: Any, demand: Any, **options: Any) -> None:
        [cell] = run.plan.fixed_cells()
        policies = own_policies(run.plan)
        monkeypatch.delitem(core.policies.config._REGISTERED, "brightness")
        measure = packing._measure._function  # type: ignore[attr-defined]
        assert measure(cell.to_dict(), sources, "cpu", 1, ten_bytes, policies).peak == 10
        monkeypatch.delitem(core.policies.config._REGISTERED, "brightness")
        run_here(run, sources, demand, **options)

    monkeypatch.setattr("hpo.cluster.runner.run_on_ray", elsewhere)
    row = StudyRow(Row("mine", "Mine", "", "extra"), own.BrightnessConfig())
    flags = ["--preset", "smoke", "--epochs", "1", "--seeds", "1", "--output", str(tmp_path)]
    assert hpo.run_study("mine", [row], "A policy of my own.", flags) == 0
    assert [record.status for record in load_records(tmp_path)] == ["finished"]


def test_it_has_a_row_in_the_table_and_a_place_in_figures(
    own: ModuleType, make_record: Callable[..., CellRecord]
) -> None:
    row = Row("brightness", "Brightness", "", "learned")
    records = [make_record("brightness", seed, policy=own.BrightnessConfig()) for seed in range(2)]
    frame = build_table(records, [row], ["digits"])
    assert frame["method"].tolist() == ["brightness"]
    assert frame["n_seeds"].tolist() == [2]
    labels = [text.get_text() for ax in study_figure(frame, records).axes for text in ax.texts]
    shown = [t.get_text() for a in study_figure(frame, records).axes for t in a.get_yticklabels()]
    assert "Brightness" in [*labels, *shown]
