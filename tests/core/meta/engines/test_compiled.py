"""What is special about the compiled graph: when it is made, kept, freed and done without."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.meta.engines import compiled
from core.meta.engines.compiled import CompileFallback
from core.meta.gradient import hypergradient, meta_gradient
from core.mixing.area import AreaMixing
from core.mixing.hidden import HiddenMixing
from core.mixing.losses import IndexLoss
from core.models import build_model
from tests.support.losses import focal


def compare(model: nn.Module, data: Any, relative: float = 1e-10, **options: Any) -> None:
    """Against the eager engine, which has truths of its own."""
    arguments = {"model": model, "lr": 0.3, **vars(data), **options}
    value = meta_gradient(**arguments, engine="compiled")
    truth = meta_gradient(**arguments, engine="double_backward")
    for a, b in [
        (value.hypergradient, truth.hypergradient),
        (value.meta_loss, truth.meta_loss),
        (value.virtual_loss, truth.virtual_loss),
    ]:
        assert a.dtype == b.dtype
        assert float((a - b).norm()) <= relative * float(b.norm())
    assert float(truth.hypergradient.norm()) > 1e-7


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Returns a list that gets an entry for each graph that is made."""
    made: list[None] = []
    aot_eager = torch._dynamo.lookup_backend("aot_eager")

    def backend(graph: Any, inputs: Any) -> Callable[..., Any]:
        made.append(None)
        result: Callable[..., Any] = aot_eager(graph, inputs)
        return result

    monkeypatch.setattr(compiled, "BACKEND", backend)
    return made


def test_values_are_no_part_of_the_graph(graphs: list[None], toy: SimpleNamespace) -> None:
    net = toy.make_net(norm=True, drop=True)
    for seed, lr, scale in [(1, 0.3, 1.0), (2, 0.01, 2.0**10), (3, 0.7, 0.5)]:
        data = toy.make_data(seed=seed)
        data.partner = torch.randperm(6)
        compare(net, data, lr=lr, scale=scale)
        with torch.no_grad():
            net.hidden.weight.mul_(0.9)
    assert len(graphs) == 1
    by_name = {name: 0.1 * i for i, (name, _) in enumerate(net.named_parameters())}
    compare(net, toy.make_data(), lr=by_name)
    assert len(graphs) == 1


def test_shapes_and_modes_are_compiled_once_each_and_not_without_end(
    graphs: list[None], toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "MOST_SHAPES", 2)
    net = toy.make_net(norm=True)
    for _ in range(2):
        compare(net.train(), toy.make_data(6, 5))
        compare(net.eval(), toy.make_data(4, 3))
    assert len(graphs) == 2
    with pytest.warns(CompileFallback, match="2 shapes or modes have been compiled"):
        compare(net.train(), toy.make_data(4, 3))
    compare(net, toy.make_data(3, 5))  # said once
    compare(net, toy.make_data(6, 5))
    assert len(graphs) == 2


def test_another_head_on_the_same_model(graphs: list[None]) -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    for classes in (3, 6):
        net[2] = nn.Linear(5, classes).double()
        g = torch.Generator().manual_seed(classes)
        x = torch.randn(10, 4, generator=g, dtype=torch.float64)
        y = torch.arange(10) % classes
        lam = torch.rand(6, generator=g, dtype=torch.float64)
        data = SimpleNamespace(
            batch=(x[:6], y[:6]), val_batch=(x[6:], y[6:]), lam=lam, partner=torch.arange(6).flip(0)
        )
        compare(net, data)
    assert len(graphs) == 2


def test_a_model_is_freed_with_its_graphs(graphs: list[None], toy: SimpleNamespace) -> None:
    net = toy.make_net(norm=True)
    compare(net, toy.make_data())
    graphs_of = compiled._GRAPHS  # type: ignore[attr-defined]
    stage, alive = weakref.ref(graphs_of[net].stage), weakref.ref(net)
    del net
    gc.collect()
    assert alive() is None
    assert stage() is None
    assert len(graphs) == 1


def test_known_validation_gradient(graphs: list[None], toy: SimpleNamespace) -> None:
    net, data = toy.make_net(), toy.make_data()
    earlier = meta_gradient(net, **vars(data), lr=0.3, engine="compiled")
    assert earlier.validation is not None
    with torch.no_grad():
        net.hidden.weight.mul_(0.8)
    compare(net, data, validation_gradient=earlier.validation)
    assert len(graphs) == 2


def test_autocast(graphs: list[None], toy: SimpleNamespace) -> None:
    net, data = toy.make_net(dtype=torch.float32), toy.make_data(dtype=torch.float32)
    compare(net, data, relative=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compare(net, data, relative=0.05)
        value = hypergradient(net, **vars(data), lr=0.3, engine="compiled")
    exact = hypergradient(net, **vars(data), lr=0.3, engine="unroll")
    assert 1e-4 < float((value - exact).norm() / exact.norm()) < 0.05  # it was in bfloat16
    compare(net, data, relative=1e-5)


def test_last_blocks(graphs: list[None], toy: SimpleNamespace) -> None:
    compare(toy.make_net(norm=True), toy.make_data(), last_blocks=2)
    assert len(graphs) == 1


def test_a_loss_of_integer_labels(graphs: list[None], toy: SimpleNamespace) -> None:
    compare(toy.make_net(), toy.make_data(), loss=IndexLoss(focal))
    assert len(graphs) == 1


def test_mixing_by_area(graphs: list[None]) -> None:
    torch.manual_seed(0)
    model = build_model("digits_cnn", in_channels=1, num_classes=10, image_size=8, width=4).double()
    x, y = torch.randn(6, 1, 8, 8).double(), torch.arange(6)
    lam, partner = torch.linspace(0.2, 0.9, 6).double(), torch.arange(6).roll(1)
    data = SimpleNamespace(batch=(x, y), val_batch=(x.flip(0), y), lam=lam, partner=partner)
    compare(model, data, mixing=AreaMixing().draw(x, None))
    assert len(graphs) == 1


class Printing(nn.Module):
    """No single graph: it looks at a number."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out * 2 if float(out.detach().sum()) > 1e9 else out


def test_a_model_that_is_no_single_graph(graphs: list[None], toy: SimpleNamespace) -> None:
    model = Printing(toy.make_net(drop=True))
    with pytest.warns(CompileFallback, match=r"meta stage of Printing: \w+: .*double_backward"):
        compare(model, toy.make_data())
    compare(model, toy.make_data())
    compare(model, toy.make_data(4))
    assert graphs == []


def test_mixing_at_a_hidden_layer(graphs: list[None], toy: SimpleNamespace) -> None:
    net, data = toy.make_net(), toy.make_data()
    arguments = {"model": net, "lr": 0.3, **vars(data), "mixing": HiddenMixing(("hidden",))}
    with pytest.warns(CompileFallback, match="does not compile the meta stage of Net"):
        value = hypergradient(**arguments, engine="compiled")
    truth = hypergradient(**arguments, engine="unroll")
    assert float((value - truth).norm() / truth.norm()) < 1e-10
    assert graphs == []


def test_an_optimizer_and_another_loss(graphs: list[None], toy: SimpleNamespace) -> None:
    net, data = toy.make_net(), toy.make_data()
    momentum = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    with pytest.warns(CompileFallback, match="optimizer's own"):
        compare(net, data, lr=None, optimizer=momentum)
    compare(net, data, lr=None, optimizer=momentum)
    compare(net, data)
    assert len(graphs) == 1

    def strange(logits: Tensor, target: Tensor) -> Tensor:
        assert float(logits.detach().sum()) < 1e9
        return F.cross_entropy(logits, target)

    with pytest.warns(CompileFallback):
        compare(net, data, loss=strange)


def test_without_a_compiler_of_cpp(toy: SimpleNamespace) -> None:
    from torch._inductor import config

    # Not by monkeypatch: to put a setting back, it would delete it.
    without = config.patch({"cpp.cxx": (None, "no-such-compiler")})
    with without, pytest.warns(CompileFallback, match="compiler"):
        compare(nn.Linear(4, 3).double(), toy.make_data())


def test_what_is_wrong_is_raised_as_ever(graphs: list[None], toy: SimpleNamespace) -> None:
    net, data = toy.make_net(), toy.make_data()
    arguments = {"model": net, "lr": 0.3, "engine": "compiled", **vars(data)}
    wrong = {"val_batch": (data.val_batch[0], torch.full((5,), 3))}
    other = {"batch": (data.batch[0], torch.full((6,), -1))}
    for change, actual in [(wrong, 3), (other, -1)]:
        with pytest.raises(ValueError, match=rf"labels must lie in \[0, 2\], got {actual}"):
            hypergradient(**{**arguments, **change})
    hypergradient(**arguments)
    for change, actual in [(wrong, 3), (other, -1)]:
        with pytest.raises(ValueError, match=rf"labels must lie in \[0, 2\], got {actual}"):
            hypergradient(**{**arguments, **change})
    with pytest.raises(ValueError, match="must return logits"):
        hypergradient(**{**arguments, "model": nn.Sequential(net, nn.Flatten(0))})
    assert len(graphs) == 1


class ThreeMasks(nn.Module):
    """A convolution, ReLU and pooling, with dropout before, between and after."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 3, 3), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(self.conv(F.dropout(x, 0.2, self.training)).relu(), 2)
        out: Tensor = self.out(F.dropout(h.flatten(1), 0.5, self.training))
        return F.dropout(out, 0.3, self.training)


def test_a_loss_that_comes_later_is_looked_into_as_the_first_is(
    graphs: list[None], toy: SimpleNamespace
) -> None:
    """Of the same shapes; its penalty reads parameters that were collected before."""
    net, data = toy.make_net(), toy.make_data()
    collected, arguments = list(net.parameters()), {"lr": 0.3, "engine": "compiled", **vars(data)}
    meta_gradient(net, **arguments)

    def penalized(logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y) + 0.1 * sum(p.pow(2).sum() for p in collected)

    with pytest.raises(ValueError, match="as an object collected before the step"):
        meta_gradient(net, **arguments, loss=penalized)
    assert len(graphs) == 1


@pytest.mark.slow
def test_float32_compiled_to_code_equals_the_eager_engine(toy: SimpleNamespace) -> None:
    torch.manual_seed(0)
    model, n, m = ThreeMasks(), 8, 6
    data = SimpleNamespace(
        batch=(torch.randn(n, 1, 6, 6), torch.randint(10, (n,))),
        val_batch=(torch.randn(m, 1, 6, 6), torch.randint(10, (m,))),
        lam=torch.rand(n),
        partner=torch.randperm(n),
    )
    before = toy.snapshot(model)
    for _ in range(2):
        compare(model, data, relative=1e-5)
        data.lam = torch.rand(n)
    assert toy.identical(before, toy.snapshot(model))


def test_hooks_that_come_and_go_count(graphs: list[None]) -> None:
    """The compiler holds a module's hooks for what they were when it traced."""
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y, x_val, y_val = torch.randn(6, 5), torch.arange(6) % 3, torch.randn(4, 5), torch.arange(4)
    y_val %= 3
    lam, partner = torch.rand(6), torch.randperm(6)

    def both() -> list[Tensor]:
        engines: list[Any] = ["double_backward", "compiled"]
        return [
            hypergradient(model, (x, y), (x_val, y_val), lam, partner, lr=0.5, engine=engine)
            for engine in engines
        ]

    plain = both()
    torch.testing.assert_close(*plain)
    hook = model[1].register_forward_hook(lambda _, __, output: 3 * output)
    hooked = both()
    torch.testing.assert_close(*hooked)
    assert not torch.allclose(hooked[0], plain[0])
    hook.remove()
    model[1].register_forward_pre_hook(lambda _, inputs: (3 * inputs[0],))
    torch.testing.assert_close(*both())
