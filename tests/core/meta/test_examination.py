"""What `core.examine` says of models, optimizers and data of many kinds, and that all stays."""

from __future__ import annotations

import copy
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import core
from core.meta.engines import ENGINES
from core.meta.examination.tracked import Memory
from tests.support.second_derivatives import Flash


@pytest.fixture(autouse=True)
def _streams() -> Iterator[None]:
    torch.manual_seed(0)
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002


def network(layer: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), layer or nn.Tanh(), nn.Linear(8, 3))


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))


def batches(*shape: int, n: int = 8) -> tuple[Any, Any]:
    y = torch.arange(n) % 3
    return (torch.randn(n, *shape), y), (torch.randn(n - 1, *shape), y[1:])


def examined(model: nn.Module, *shape: int, **options: Any) -> core.Examination:
    batch, val_batch = batches(*(shape or (4,)))
    options.setdefault("optimizer", torch.optim.SGD(model.parameters(), lr=0.1))
    return core.examine(model, batch, val_batch, **options)


def subjects(report: core.Examination) -> list[str]:
    return [finding.subject for finding in report.findings]


class Momentum(nn.Module):
    """A key encoder that each forward pass moves towards the query encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.key = nn.Linear(4, 8).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for key, query in zip(self.key.parameters(), self.query.parameters(), strict=True):
                key.mul_(0.9).add_(query, alpha=0.1)
            keys = self.key(x)
        out: Tensor = self.head(torch.tanh(self.query(x)) + keys)
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x)[0][:, -1])
        return out


# ------------------------------------------------------------------------------ engines and errors


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (network, (4,)),
        (lambda: network(nn.Sequential(nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))), (4,)),
        (lambda: network(nn.LazyLinear(8)), (4,)),
        (Recurrent, (5, 4)),
        (convolutional, (1, 6, 6)),
    ],
    ids=["tanh", "BatchNorm, ReLU, dropout", "lazy", "LSTM", "convolution"],
)
def test_exact_engines_agree_with_differences(
    model: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    net = model()
    net(batches(*shape)[0][0])
    report = examined(net, *shape)
    assert report.engine == "auto"
    assert report.findings == ()
    assert report.operations == ()
    assert report.differences is torch.float64
    exact = [r for r in report.engines if r.exact and r.hypergradient is not None]
    assert {"auto", "unroll"} <= {result.engine for result in exact}
    for result in exact:
        assert result.error is not None
        assert result.error < 1e-4, result.engine
        assert result.times is not None
        assert result.times > 0
        assert result.memory is not None
        assert result.memory > 1
    assert 'Take engine="auto".' in str(report)
    assert "There is nothing else to know." in str(report)


def test_an_operation_without_a_second_derivative_and_its_cure() -> None:
    report = examined(network(Flash()))
    assert report.engine == "finite_difference"
    (name,) = report.operations
    assert "flash_attention" in name
    (finding,) = report.about("operations")
    assert 'engine="finite_difference"' in finding.text
    refused = {r.engine: r.refusal for r in report.engines}
    way_out = r"flash_attention.*no second derivative.*finite_difference"
    assert re.search(way_out, str(refused["auto"]))
    assert "not tried" in str(refused["compiled"])
    report = examined(network(nn.Hardsigmoid()))
    assert report.operations == ("hardsigmoid_backward",)
    assert report.engine == "auto"
    assert "form of its own" in report.about("operations")[0].text


def test_a_function_marked_once_differentiable_is_named() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, slope: Tensor) -> Tensor:
            return 2 * ctx.saved_tensors[0] * slope

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Square.apply(x)  # type: ignore[no-any-return]

    report = examined(network(Layer()))
    assert report.engine == "finite_difference"
    assert [name.rpartition(".")[2] for name in report.operations] == ["Square"]


def test_an_engine_that_is_wrong_is_found_and_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ENGINES["double_backward"]

    def wrong(problem: Any) -> Any:
        result = right(problem)
        return copy.copy(result).__class__(
            result.hypergradient.roll(1), result.meta_loss, result.virtual_loss, result.validation
        )

    monkeypatch.setitem(ENGINES, "double_backward", wrong)
    report = examined(network())
    assert report.engine == "unroll"
    (finding,) = report.about("engines")
    assert finding.names == ("auto",)
    assert "from central differences" in finding.text


def test_memory_is_that_of_the_tensors_alive() -> None:
    outside = torch.ones(1000)
    with Memory() as memory:
        a = outside + 1
        b = a.view(10, 100).t()  # no memory of its own
        c = b * 2
        del a, b
        d = c + 1
        del c, d
        e = outside.view(10, 100)
    assert e.numel() == 1000
    assert memory.peak == 2 * 4000


def test_no_engine_is_tried_when_the_time_is_up() -> None:
    report = examined(network(), seconds=0)
    tried = [r.engine for r in report.engines if r.refusal is None]
    assert tried == ["auto"]
    assert all("not tried" in str(r.refusal) for r in report.engines[1:])
    everything = examined(network(), seconds=None)
    assert [r.refusal for r in everything.engines[:-1]] == [None] * 4


def test_it_looks_on_the_models_device_whatever_torchs_default_is() -> None:
    torch.manual_seed(1)
    batch, model = (torch.randn(6, 4), torch.arange(6) % 3), network()
    here = core.examine(model, batch, batch, lr=0.1, seconds=0)
    with torch.device("meta"):
        elsewhere = core.examine(model, batch, batch, lr=0.1, seconds=0)
    assert elsewhere.engines[0].error is not None
    assert elsewhere.engines[0].error == here.engines[0].error


# --------------------------------------------------------------------------------- what it looks at


def test_parameters_that_forward_writes_to_are_named_and_right() -> None:
    model = Momentum()
    report = examined(model)
    assert subjects(report) == ["parameters written"]
    assert report.findings[0].names == ("key.weight", "key.bias")
    assert report.engine == "auto"
    assert report.engines[0].error is not None
    assert report.engines[0].error < 1e-4


class Stateful(nn.Module):
    """It counts, remembers, keeps an encoder in a list, and draws from a stream of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls, self.seen = nn.Linear(4, 3), 0, [0]
        self.memory, self.array = torch.zeros(3), np.zeros(3)
        self.hidden = [nn.Linear(4, 3)]
        self.stream = torch.Generator().manual_seed(1)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(self.calls)
        self.count += 1
        self.memory = self.memory + 1
        self.array += 1
        with torch.no_grad():
            self.hidden[0].weight.mul_(0.5)
        out: Tensor = self.layer(x) + 0.1 * torch.rand(3, generator=self.stream)
        return out


def test_state_outside_of_buffers_is_named_and_put_back() -> None:
    model = Stateful()
    memory, array = model.memory, model.array
    weight, stream = model.hidden[0].weight.detach().clone(), model.stream.get_state()
    report = examined(model)
    (finding,) = report.about("state")
    # Not the stream, which a meta stage puts back.
    assert set(finding.names) == {"array", "calls", "hidden[0].weight", "memory", "seen"}
    assert "register_buffer" in finding.text
    assert (model.calls, model.seen, float(model.count)) == (0, [0], 0.0)  # type: ignore[arg-type]
    assert model.memory is memory
    assert model.array is array
    assert not array.any()
    assert torch.equal(model.hidden[0].weight, weight)
    assert torch.equal(model.stream.get_state(), stream)


def test_hooks_are_named_and_those_of_torch_are_not() -> None:
    outputs: list[Tensor] = []
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 8)), nn.Tanh(), nn.Linear(8, 3))
    assert subjects(examined(model)) == []
    model[1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    model[2].weight.register_hook(lambda slope: slope * 0)
    report = examined(model)
    assert report.about("hooks")[0].names == ("1 (forward)",)
    assert "three passes" in report.about("hooks")[0].text
    assert report.about("gradient hooks")[0].names == ("2.weight",)
    assert outputs == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_data_that_are_not_finite_are_counted(bad: float) -> None:
    model = network()
    (x, y), (x_val, y_val) = batches(4)
    x[3, 1] = bad
    x_val[[2, 5], 0] = bad
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    report = core.examine(model, (x, y), (x_val, y_val), optimizer=optimizer)
    first, second = report.about("data")
    assert first.names == ("training inputs",)
    assert "1 of the training inputs" in first.text
    assert "sample 3" in first.text
    assert "2 of the meta-validation inputs" in second.text
    assert report.engine == "auto"
    assert torch.isnan(x[3, 1]) or torch.isinf(x[3, 1])
    model[0].weight.data[0, 0] = bad  # type: ignore[union-attr,index]
    assert examined(model).about("data")[0].names == ("0.weight",)


def test_what_the_optimizer_lacks() -> None:
    model = network()
    report = examined(model, optimizer=torch.optim.SGD(model[2].parameters(), lr=0.1))  # type: ignore[index]
    assert report.about("optimizer")[0].names == ("0.weight", "0.bias")
    other = torch.optim.SGD(network().parameters(), lr=0.1)
    assert "holds no parameter of this model" in examined(model, optimizer=other).findings[0].text
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    report = examined(model, optimizer=still)
    assert "All learning rates are 0" in report.findings[0].text
    assert report.engine == "auto"
    with pytest.raises(ValueError, match="`optimizer` or `lr`"):
        examined(model, optimizer=None)
    assert examined(model, optimizer=None, lr=0.1).engine == "auto"


def test_a_model_in_evaluation_mode_is_said_to_be() -> None:
    report = examined(network(nn.Dropout()).eval())
    assert subjects(report) == ["mode"]
    assert "evaluation mode" in report.subject


def test_outputs_and_tokens_of_other_kinds() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(9, 8), nn.Linear(8, 3)

        def forward(self, ids: Tensor) -> dict[str, Tensor]:
            return {"logits": self.head(torch.tanh(self.words(ids)).mean(1))}

    model, y = Text(), torch.arange(6) % 3
    ids = torch.randint(9, (6, 5))
    options: Any = {"lr": 0.1, "logits_of": "logits", "mixing": core.HiddenMixing("words")}
    report = core.examine(model, (ids, y), (ids, y), **options)
    assert report.engine == "auto"
    assert report.findings == ()
    with pytest.raises(ValueError, match="logits_of="):
        core.examine(model, (ids, y), (ids, y), lr=0.1, mixing=core.HiddenMixing("words"))


# ------------------------------------------------------------------------------- nothing is changed


class Everything(nn.Module):
    """BatchNorm, dropout, draws of Python and NumPy, a frozen layer, an encoder that moves."""

    def __init__(self) -> None:
        super().__init__()
        self.momentum, self.norm, self.drop = Momentum(), nn.BatchNorm1d(4), nn.Dropout(0.3)
        self.frozen = nn.Linear(4, 4).requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        scale = random.random() + np.random.uniform()  # noqa: NPY002
        out: Tensor = self.momentum(self.drop(self.norm(self.frozen(x)))) * scale
        return out


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_changed(fails: bool) -> None:
    model = Everything()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    batch, val_batch = batches(4)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()

    def state() -> dict[str, Any]:
        values: dict[str, Any] = {f"model.{k}": v for k, v in model.state_dict().items()}
        values |= {f"grad.{n}": p.grad for n, p in model.named_parameters()}
        for i, remaining in enumerate(optimizer.state.values()):
            values |= {f"optimizer.{i}.{k}": v for k, v in remaining.items()}
        values["torch"] = torch.get_rng_state()
        values["numpy"] = torch.tensor(np.random.get_state()[1].astype(np.int64))  # noqa: NPY002
        return {k: v if v is None else v.clone() for k, v in values.items()}

    def flags() -> Any:
        modes = [m.training for m in model.modules()]
        needed = [p.requires_grad for p in model.parameters()]
        leaves = [id(p) for p in model.parameters()]
        return modes, needed, leaves, random.getstate()

    before, flags_before, grads = state(), flags(), [p.grad for p in model.parameters()]

    def broken(logits: Tensor, target: Tensor) -> Tensor:
        raise RuntimeError("broken")

    if fails:
        with pytest.raises(ValueError, match="broken"):
            core.examine(model, batch, val_batch, optimizer=optimizer, loss=broken)
    else:
        report = core.examine(model, batch, val_batch, optimizer=optimizer)
        assert report.engine == "auto"
        assert report.engines[0].error is not None
        assert report.engines[0].error < 1e-3
    after = state()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert (value is None) == (after[name] is None), name
        assert value is None or torch.equal(value, after[name]), name
    assert flags() == flags_before
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))


def halting(halts: Iterator[object]) -> nn.Module:
    """Returns a network that halts in its second derivative, once for each of halts."""

    def first(grad: Tensor) -> None:
        if grad.requires_grad:
            grad.register_hook(second)

    def second(grad: Tensor) -> None:
        time.sleep(0.5 if next(halts, None) is not None else 0)

    class Halting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = network()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layers(x)
            if out.requires_grad:
                out.register_hook(first)
            return out

    return Halting()


@pytest.mark.parametrize(("times", "engine"), [(1, "auto"), (99, "finite_difference")])
def test_differences_are_advised_where_the_engine_is_slow_and_not_where_it_halted_once(
    times: int, engine: str
) -> None:
    assert examined(halting(iter(range(times)))).engine == engine


def test_it_refuses_what_a_step_with_this_optimizer_refuses() -> None:
    model, temperature = nn.Linear(4, 3), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([*model.parameters(), temperature], lr=0.1)
    batch, val_batch = [(torch.randn(n, 4), torch.randint(3, (n,))) for n in (6, 5)]

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return core.soft_cross_entropy(logits / temperature, y)

    report = core.examine(model, batch, val_batch, optimizer=optimizer, loss=loss)
    assert report.engine is None
    refusals = {engine.refusal for engine in report.engines if engine.engine != "compiled"}
    assert len(refusals) == 1
    assert "shape [1] that the optimizer holds and the model does not" in str(refusals)
    constant = core.examine(model, batch, val_batch, lr=0.1, loss=loss)
    assert constant.engine == "auto"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit"])
def test_networks_of_torchvision(name: str) -> None:
    from core.data.torchvision_compat import torchvision

    size, models = 32 if name == "vit" else 64, torchvision.models
    if name == "vit":  # two layers of width 32
        model = models.VisionTransformer(size, 16, 2, 2, 32, 64, num_classes=3)
    else:
        model = getattr(models, name)(num_classes=3)
    report = examined(model, 3, size, size)
    assert report.engine == "auto"
    assert report.engines[0].error is not None
    assert report.engines[0].error < 1e-2
    assert set(subjects(report)) <= {"operations"}
