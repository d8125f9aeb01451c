"""A training in reduced precision, by channels_last: what it promises beside float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import core
from core.analysis.config import AnalysisConfig
from core.analysis.observer import Observer
from core.data import Source, load_source
from core.mixing.interpolation import Interpolation
from core.models import build_model
from core.policies import policy_from_dict
from core.semi_supervised.config import SemiSupervisedConfig
from core.training import TrainingConfig
from core.training.fit import fit, reproducible
from core.training.training import Training
from core.user_model import precision as precision_module
from core.user_model.precision import (
    Precision,
    PrecisionName,
    check_precision,
    descend,
    is_emulated,
    loss_scale,
)
from tests.support.digit_trainings import interrupt, numbers

REDUCED = {"precision": "bf16", "memory_format": "channels_last"}


@pytest.fixture(scope="module")
def digits() -> Source:
    return load_source("digits")


@pytest.fixture
def half_precision_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """This processor may have no float16 of its own; small networks can wait for its emulation."""
    monkeypatch.setattr(precision_module, "check_precision", lambda name, device: None)


def config(kind: str = "beta", **changes: object) -> TrainingConfig:
    base = TrainingConfig(
        dataset="digits", model="digits_cnn", width=4, policy=policy_from_dict({"kind": kind}),
        train_size=200, meta_size=50, epochs=2, batch_size=32, meta_batch_size=16, lr=0.1,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


class Dtypes(TorchDispatchMode):
    """Notes in which dtypes convolutions are computed, and in which memory format."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[torch.dtype, bool]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func in (
            torch.ops.aten.convolution.default,
            torch.ops.aten.convolution_backward.default,
        ):
            weight = args[1] if func is torch.ops.aten.convolution.default else args[2]
            last = weight.is_contiguous(memory_format=torch.channels_last)
            self.seen.add((weight.dtype, last))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["learned", "adamixup"])
def test_every_pass_of_an_epoch_is_computed_as_asked(digits: Source, kind: str) -> None:
    """Those of the meta stage, of the real step, of the evaluation, and of a policy's networks."""
    with reproducible(0, device="cpu", threads=1):
        training = Training(config(kind, epochs=1, **REDUCED), digits, "cpu")
        with Dtypes() as dtypes:
            metrics = training.epoch()
            training.result()
    assert dtypes.seen == {(torch.bfloat16, True)}
    weights = [p for p in training._model.parameters() if p.dim() == 4]
    assert all(p.dtype == torch.float32 for p in training._model.parameters())
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert all(np.isfinite(value) for value in metrics.values())


def test_what_is_measured_of_a_network_is_measured_in_float32(
    digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for name in ("epoch", "findings"):
        measured = getattr(Observer, name)

        def noting(self: Observer, *given: object, measured=measured) -> object:  # type: ignore[no-untyped-def]
            seen.append(torch.is_autocast_enabled("cpu"))
            return measured(self, *given)

        monkeypatch.setattr(Observer, name, noting)
    analysis = AnalysisConfig(curvature_pairs=4)
    fit(config(epochs=1, model="digits_cnn_smooth", analysis=analysis, **REDUCED), source=digits)
    assert seen == [False, False]


@pytest.mark.parametrize("kind", ["beta", "learned"])
def test_the_losses_are_those_of_float32_to_the_digits_of_bf16(digits: Source, kind: str) -> None:
    fine, coarse = (fit(config(kind, **more), source=digits) for more in ({}, REDUCED))
    for name in ("train_loss", "val_loss"):
        assert coarse.history[0][name] == pytest.approx(fine.history[0][name], rel=0.02)
        assert coarse.history[0][name] != fine.history[0][name]


@pytest.mark.usefixtures("half_precision_everywhere")
def test_a_resumed_training_gives_the_same_bits(
    digits: Source, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float16, which has a loss scale to keep; bf16 has nothing."""
    monkeypatch.setattr("core.training.fit.CHECKPOINT_SECONDS", 0.0)
    asked = config("learned", precision="fp16", memory_format="channels_last", train_size=100)
    calm = fit(asked, source=digits)

    interrupt(asked, tmp_path, 1)
    assert numbers(fit(asked, source=digits, directory=tmp_path)) == numbers(calm)


@pytest.mark.parametrize("semi", ["pseudo-label", "mean-teacher", "mixmatch", "vat"])
def test_methods_with_few_labels_train_in_bf16(digits: Source, semi: str) -> None:
    mixing = semi in ("pseudo-label", "mixmatch")
    ema = 0.9 if semi in ("mean-teacher", "mixmatch") else None
    few = SemiSupervisedConfig(kind=semi, labelled=50, ema=ema)
    asked = config("learned" if mixing else "none", semi=few, epochs=1, **REDUCED)
    history = fit(asked, source=digits).history
    exact = fit(replace(asked, precision="float32"), source=digits).history
    assert history[0]["train_loss"] == pytest.approx(exact[0]["train_loss"], rel=0.03)


def test_a_probe_that_bf16_rounds_away_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision=bf16 rounds a probe of xi=1e-06 away"):
        config("none", semi=SemiSupervisedConfig(kind="vat", labelled=50, xi=1e-6), **REDUCED)


def test_unknown_words_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="precision must be float32, bf16, fp16; got 'half'"):
        config(precision="half")
    with pytest.raises(ValueError, match="memory_format must be contiguous or channels_last"):
        config(memory_format="nhwc")


def test_float16_is_refused_where_it_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False)
    with pytest.raises(ValueError, match=r"precision=fp16: cpu has no float16.*choose bf16"):
        check_precision("fp16", "cpu")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: True)
    check_precision("fp16", "cpu")
    with pytest.raises(ValueError, match="precision=bf16 needs autocast, which meta has not"):
        check_precision("bf16", "meta")


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_a_processor_without_the_arithmetic_emulates_it(
    name: PrecisionName, monkeypatch: pytest.MonkeyPatch
) -> None:
    for computes in (False, True):
        monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", lambda c=computes: c)
        assert is_emulated(name, "cpu") == (not computes)
        assert not is_emulated(name, "cuda")
        assert not is_emulated("float32", "cpu")

    def none_to_ask() -> bool:
        raise RuntimeError("no oneDNN")

    monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", none_to_ask)
    assert not is_emulated(name, "cpu")


@pytest.mark.usefixtures("half_precision_everywhere")
def test_float16_scales_losses_in_the_meta_stage_and_skips_steps_that_overflow() -> None:
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    half = Precision("fp16", torch.device("cpu"))
    before = net.weight.detach().clone()
    assert loss_scale() == 1
    with half.region():
        assert loss_scale() == 2.0**16
        descend(optimizer, net(torch.ones(2, 3)).float().sum() * float("inf"))
        assert loss_scale() == 2.0**15
    assert loss_scale() == 1
    assert torch.equal(net.weight, before)
    assert half.state_dict()["scale"] == 2.0**15


def test_fused_kernels_are_taken_only_where_no_stored_result_depends_on_them(
    digits: Source,
) -> None:
    def fused(**changes: object) -> object:
        return Training(config(**changes), digits, "cpu")._optimizer.param_groups[0]["fused"]

    for optimizer in ("sgd", "adam", "adamw"):
        assert fused(optimizer=optimizer) is None
        assert fused(optimizer=optimizer, precision="bf16") is True
        assert fused(optimizer=optimizer, memory_format="channels_last") is True


def test_the_bf16_hypergradient_points_where_the_float64_one_does() -> None:
    torch.manual_seed(0)
    model = build_model("cnn", in_channels=1, num_classes=4, image_size=8, width=8).eval()
    x, y = torch.randn(16, 1, 8, 8), torch.randint(4, (16,))
    x_val, y_val = torch.randn(8, 1, 8, 8), torch.randint(4, (8,))
    lam, partner = torch.rand(16), torch.randperm(16)

    def slope(dtype: torch.dtype) -> torch.Tensor:
        net = model.double() if dtype == torch.float64 else model.float()
        return core.hypergradient(
            net, (x.to(dtype), y), (x_val.to(dtype), y_val), lam.to(dtype), partner, lr=0.1
        )

    exact = slope(torch.float64)
    half = Precision("bf16", torch.device("cpu"))
    model.to(memory_format=torch.channels_last)
    with half.region():
        coarse = slope(torch.float32)
    assert torch.cosine_similarity(exact, coarse.double(), dim=0) > 0.95
    assert torch.cosine_similarity(exact, slope(torch.float32).double(), dim=0) > 0.99999


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(16, 3),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x)
        return out


@pytest.mark.parametrize("kind", ["none", "beta", "fixed", "learned", "scores"])
def test_a_step_places_all_on_the_device_and_asks_it_nothing(kind: str) -> None:
    """Tensors on "meta" have no values: whatever reads one, or mixes devices, raises."""
    more = {"lam": 0.3} if kind == "fixed" else {}
    policy = policy_from_dict({"kind": kind, **more}).build()
    net = Hooked().to("meta")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    batch = torch.randn(6, 1, 4, 4, device="meta"), torch.zeros(6, dtype=torch.int64, device="meta")
    interpolation: Interpolation = policy(
        net, optimizer, batch, batch, generator=torch.Generator(), indices=torch.arange(6)
    )
    step = core.mixed_step(net, optimizer, batch, interpolation)
    assert step.loss.device.type == step.lam.device.type == "meta"
    assert (step.hypergradient is not None) == (kind in ("learned", "scores"))
