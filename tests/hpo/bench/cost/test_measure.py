"""A whole group on a tiny network, contenders that fail among them."""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from core.data import Source
from hpo.bench.cost import measure as measuring
from hpo.bench.cost import memory
from hpo.bench.cost.bench import TRAINING_BATCH, Bench, Case, Setting, build_bench
from hpo.bench.cost.contenders import OPTIONS, Contender, contenders
from hpo.bench.cost.measure import compare, measure, reason

TINY = Case("digits_cnn", 8, 1, 12, 6, train_steps=3)
SETTING = Setting(repeats=4)


@pytest.fixture(autouse=True)
def _no_second_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        memory, "cpu_peaks", lambda case, setting, names, root: dict.fromkeys(names, 7)
    )


def failing(error: Exception, after: int, taken: list[int]) -> Contender:
    def build(bench: Bench) -> Callable[[], None]:
        def step() -> None:
            taken.append(1)
            if len(taken) > after:
                raise error

        return step

    return Contender("failing", "option", build)


def wrong(bench: Bench) -> Tensor:
    return -2 * bench.hypergradient(engine="unroll")


@pytest.mark.parametrize("model", ["digits_cnn", "cnn"])  # the CNN has dropout
def test_every_contender_is_measured_and_the_exact_ones_are_exact(
    model: str, source: Source
) -> None:
    threads = torch.get_num_threads()
    who = contenders(["unroll", "double_backward", "quarter_meta_batch", "amortised_4"])
    reversed_sign = Contender("reversed", "option", who[0].build, wrong)
    case = replace(TINY, model=model)
    group = measure(case, SETTING, [*who, reversed_sign], source)
    assert gc.get_freeze_count() > 0  # what `tests/conftest.py` froze
    rows = {m.name: m for m in group.measurements}
    assert list(rows) == [c.name for c in who] + ["reversed"]
    assert all(m.error is None and len(m.seconds) == 4 for m in rows.values())
    assert all(m.peak_bytes == 7 for m in rows.values())
    for name in ("unroll", "double_backward"):
        assert rows[name].relative_error < 1e-4  # type: ignore[operator]
        assert rows[name].cosine == pytest.approx(1, abs=1e-6)
    assert rows["reversed"].cosine == pytest.approx(-1, abs=1e-6)
    assert rows["reversed"].relative_error == pytest.approx(3, abs=1e-3)
    assert rows["quarter_meta_batch"].cosine < 0.999  # type: ignore[operator]
    assert rows["vanilla"].cosine is None
    unit = rows["vanilla"].flops
    assert unit is not None
    # One step in four has a meta stage.
    extra = rows["double_backward"].flops - unit  # type: ignore[operator]
    assert rows["amortised_4"].flops - unit == pytest.approx(extra / 4, rel=0.05)  # type: ignore[operator]
    assert group.parameters == sum(
        p.numel() for p in build_bench(case, SETTING, source).model.parameters()
    )
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("error", "after", "said"),
    [
        (ValueError("no such thing\nat all"), 0, "does not run: ValueError: no such thing"),
        (torch.OutOfMemoryError("CUDA out of memory"), 0, "out of memory"),
        (RuntimeError("late"), 5, "does not run: RuntimeError: late"),
    ],
)
def test_one_that_raises_is_reported_and_the_rest_goes_on(
    source: Source, error: Exception, after: int, said: str
) -> None:
    taken: list[int] = []
    who = [*contenders(["double_backward"]), failing(error, after, taken)]
    group = measure(TINY, SETTING, who, source)
    assert len(taken) == after + 1  # it is not asked again
    *rest, bad = group.measurements
    assert (bad.error, bad.seconds, bad.peak_bytes) == (said, (), None)
    assert all(m.error is None and len(m.seconds) == 4 for m in rest)


def test_a_model_that_cannot_be_built_fails_every_row_of_its_group(source: Source) -> None:
    case = replace(TINY, model="preact_resnet18", image_size=4)
    group = measure(case, SETTING, contenders(["unroll"]), source)
    assert group.parameters == 0
    assert all("at least 8 pixels" in str(m.error) for m in group.measurements)


def test_a_peer_that_is_missing_says_how_to_get_it() -> None:
    error = ModuleNotFoundError("No module named 'betty'")
    assert reason(error, "betty_darts") == "not installed: pip install betty-ml"


def test_growth_has_no_accuracy_and_a_warning_of_an_engine_is_a_remark(source: Source) -> None:
    vanilla, unroll = contenders(["unroll"])

    def build(bench: Bench) -> Callable[[], None]:
        warnings.warn("falls back to another\nsecond line", UserWarning, stacklevel=1)
        return vanilla.build(bench)

    who = [vanilla, unroll, Contender("noisy", "engine", build)]
    rows = measure(replace(TINY, train_steps=0), SETTING, who, source).measurements
    assert [m.remark for m in rows] == [None, None, "falls back to another"]
    assert [m.cosine for m in rows] == [None] * 3
    assert all(m.seconds for m in rows)


def test_the_error_is_relative_and_the_angle_is_that_of_vectors() -> None:
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    figures = compare(torch.tensor([4.0, 3.0]), exact)
    assert figures["relative_error"] == pytest.approx(math.sqrt(2) / 5)
    assert figures["cosine"] == pytest.approx(24 / 25)


def test_hypergradients_are_compared_on_batches_of_bounded_size(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = build_bench(TINY, SETTING, source)
    small = bench.at_most(8)
    assert (small.batch[0].shape[0], small.val_batch[0].shape[0], len(small.lam)) == (8, 6, 8)
    assert sorted(small.partner.tolist()) == list(range(8))
    assert bench.at_most(12) is bench
    monkeypatch.setattr(measuring, "ACCURACY_BATCH", 8)
    rows = measure(TINY, SETTING, contenders(["double_backward"]), source).measurements
    assert rows[1].relative_error < 1e-4  # type: ignore[operator]


def test_without_memory_for_float64_only_the_accuracy_is_missing(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(bench: Bench) -> Bench:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Bench, "double", lacks)
    rows = measure(TINY, SETTING, contenders(["unroll"]), source).measurements
    assert [(m.error, m.cosine, len(m.seconds)) for m in rows] == [(None, None, 4)] * 2


def test_every_step_starts_from_the_same_trained_state(source: Source) -> None:
    bench = build_bench(TINY, SETTING, source)
    step = contenders([])[0].build(bench)
    step()
    rewind = bench.rewinder()

    def state() -> list[Tensor]:
        momentum = [s["momentum_buffer"] for s in bench.optimizer.state.values()]
        return [t.clone() for t in (*bench.model.state_dict().values(), *momentum)]

    before = state()
    step()
    assert not all(torch.equal(a, b) for a, b in zip(state(), before, strict=True))
    rewind()
    assert all(torch.equal(a, b) for a, b in zip(state(), before, strict=True))


def test_a_network_is_trained_for_a_case_of_whatever_batch(source: Source) -> None:
    """Training takes smaller batches than a large case has."""
    bench = build_bench(replace(TINY, batch_size=TRAINING_BATCH + 6), SETTING, source)
    assert len(bench.batch[1]) == len(bench.lam) == len(bench.partner) == TRAINING_BATCH + 6


def test_batches_have_the_size_of_the_case_whatever_the_images_are(source: Source) -> None:
    case = Case("preact_resnet18", 12, 3, 5, 3, width=2, train_steps=0)
    bench = build_bench(case, replace(SETTING, channels_last=True), source)
    assert bench.batch[0].shape == (5, 3, 12, 12)
    assert bench.val_batch[0].shape == (3, 3, 12, 12)
    assert bench.batch[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(bench.batch[0][:, 0], bench.batch[0][:, 2])
    assert bench.batch[1].dtype == torch.int64


def test_the_unit_is_always_there_and_an_unknown_name_is_refused() -> None:
    assert [c.name for c in contenders(["unroll"])] == ["vanilla", "unroll"]
    assert {*OPTIONS} < {c.name for c in contenders()}
    with pytest.raises(ValueError, match="unknown contender 'nobody'; choose among vanilla, auto"):
        contenders(["nobody"])


def test_what_is_measured_is_said_of_the_machine() -> None:
    machine = measuring.machine(Setting(threads=3))
    assert machine["threads"] == "3"
    assert machine["torch"] == torch.__version__
    assert "gpu" not in machine
