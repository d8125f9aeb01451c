"""Models that return more than logits: what is taken, from where, and that nothing else changes."""

from __future__ import annotations

import copy
import pickle
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import core

Pair = namedtuple("Pair", ["logits", "aux"])


@dataclass
class Output:
    logits: Tensor
    aux: Tensor


class ModelOutput(dict[str, Tensor]):
    """As transformers has it: keys, attributes and positions."""

    def __getattr__(self, name: str) -> Tensor:
        return self[name]


KINDS: dict[str, tuple[Callable[[Tensor], Any], Any]] = {
    "dict": (lambda f: {"aux": f + 1, "logits": f}, "logits"),
    "tuple": (lambda f: (f + 1, f), 1),
    "list, from its end": (lambda f: [f + 1, f], -1),
    "named tuple": (lambda f: Pair(f, f + 1), "logits"),
    "object": (lambda f: Output(f, f + 1), "logits"),
    "ModelOutput": (lambda f: ModelOutput(aux=f + 1, logits=f), "logits"),
    "function": (lambda f: {"heads": [f, f]}, lambda out: sum(out["heads"]) / 2),
    "a tensor": (lambda f: f, "logits"),
}


class Net(nn.Module):
    def __init__(self, output: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output(self.head(torch.tanh(self.norm(self.first(x)))))


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> tuple[Net, Any, Net]:
    """Returns a model, how its logits are taken, and the same model returning them alone."""
    output, logits_of = KINDS[request.param]
    torch.manual_seed(0)
    model = Net(output).double()
    plain = Net(lambda f: f).double()
    plain.load_state_dict(model.state_dict())
    return model, logits_of, plain


def data() -> tuple[Any, ...]:
    r = torch.Generator().manual_seed(1)
    x, x_val = (torch.randn(n, 4, generator=r).double() for n in (6, 5))
    y, y_val = torch.tensor([0, 1, 2, 2, 1, 0]), torch.tensor([2, 0, 1, 1, 0])
    return (x, y), (x_val, y_val)


@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        *((kind, "auto") for kind in KINDS),
        *(("dict", engine) for engine in ("unroll", "forward_reverse", "finite_difference")),
    ],
    indirect=["kind"],
)
def test_the_hypergradient_is_that_of_logits_alone(kind: Any, engine: Any) -> None:
    model, logits_of, plain = kind
    lam, partner = torch.linspace(0.2, 0.9, 6).double(), torch.arange(6).roll(1)
    options: Any = {"lr": 0.3, "engine": engine}
    value = core.hypergradient(model, *data(), lam, partner, logits_of=logits_of, **options)
    assert float(value.abs().max()) > 1e-3
    assert torch.equal(value, core.hypergradient(plain, *data(), lam, partner, **options))


STEPS: dict[str, Callable[..., Any]] = {
    "step": lambda m, o, b, v, k: core.metamixup_step(m, o, b, v, logits_of=k),
    "two halves": lambda m, o, b, v, k: core.mixed_step(
        m, o, b, core.learn_interpolation(m, b, v, optimizer=o, logits_of=k), logits_of=k
    ),
    "wrapped": lambda m, o, b, v, k: core.metamixup_step(core.with_logits(m, k), o, b, v),
    **{
        policy.__name__: lambda m, o, b, v, k, policy=policy: core.mixed_step(
            core.with_logits(m, k),
            o,
            b,
            policy()(core.with_logits(m, k), o, b, v, indices=torch.arange(6)),
        )
        for policy in (core.Beta, core.PersistentScores, core.Amortised)
    },
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [*((kind, "step") for kind in KINDS), *(("dict", name) for name in STEPS if name != "step")],
    indirect=["kind"],
)
def test_steps_move_the_model_as_that_of_logits_alone(kind: Any, name: str) -> None:
    model, logits_of, plain = kind
    step = STEPS[name]
    batch, val_batch = data()
    results = []
    for net, taken in ((model, logits_of), (plain, None)):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
        results.append([step(net, optimizer, batch, val_batch, taken).loss for _ in range(3)])
    assert results[0] == results[1]
    truth = plain.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, truth[key]), key


def test_state_names_mode_and_hooks_are_those_of_the_model() -> None:
    model = Net(lambda f: {"logits": f})
    view = core.with_logits(model, "logits")
    assert core.with_logits(model, None) is model
    pairs = zip(model.named_parameters(), view.named_parameters(), strict=True)
    assert all(a == b and p is q for (a, p), (b, q) in pairs)
    assert list(view.state_dict()) == list(model.state_dict())
    assert [n for n, _ in view.named_modules()] == [n for n, _ in model.named_modules()]
    view.eval()
    assert not model.training
    seen: list[object] = []
    handle = view.register_forward_hook(lambda *given: seen.append(given))
    x = torch.randn(2, 4)
    assert torch.equal(view(x), model(x)["logits"])
    assert len(seen) == 2
    handle.remove()
    assert view.output is model.output
    twin = copy.deepcopy(view)
    assert torch.equal(twin(x), view(x))
    assert twin.first.weight is not model.first.weight
    whole = core.with_logits(nn.Sequential(nn.Linear(4, 3)), 0)
    assert torch.equal(pickle.loads(pickle.dumps(whole))(x), whole(x))


def test_hidden_mixing_and_compiled_models_work() -> None:
    batch, val_batch = data()
    model = Net(lambda f: {"logits": f}).double()
    lam, partner = torch.rand(6).double(), torch.arange(6).roll(1)
    options: Any = {"lr": 0.3, "mixing": core.HiddenMixing("norm"), "logits_of": "logits"}
    value = core.hypergradient(model, batch, val_batch, lam, partner, **options)
    compiled: Any = torch.compile(model, backend="eager")
    for wrapped in (compiled, core.with_logits(compiled, "logits")):
        options["logits_of"] = "logits" if wrapped is compiled else None
        again = core.hypergradient(wrapped, batch, val_batch, lam, partner, **options)
        assert torch.equal(value, again)


@pytest.mark.parametrize(
    ("output", "logits_of", "message"),
    [
        (lambda f: {"a": f}, "logits", r"'logits' is not in.*dict with 'a'; give a key"),
        (lambda f: (f, f), 2, r"logits_of=2 is not in.*tuple of 2"),
        (lambda f: Pair(f, f), "out", r"'out' is not in.*Pair with 'logits', 'aux'"),
        (lambda f: Output(f, f), 0, r"logits_of=0 is not in.*Output with 'logits', 'aux'"),
        (lambda f: None, "logits", "NoneType"),
        (lambda f: {"a": f[:2]}, "a", r"return logits \[6, C\], got \[2, 3\]"),
        (lambda f: {"a": f}, lambda out: out, r"return logits \[6, C\], got dict with 'a'"),
        (lambda f: f, 1.5, "logits_of must be a key.*got float"),
    ],
)
def test_what_is_not_there_is_refused(output: Any, logits_of: Any, message: str) -> None:
    batch, val_batch = data()
    model = Net(output).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    with pytest.raises(ValueError, match=message):
        core.metamixup_step(model, optimizer, batch, val_batch, logits_of=logits_of)


def test_saying_it_twice_or_giving_no_module_is_refused() -> None:
    batch, val_batch = data()
    model = Net(lambda f: {"logits": f}).double()
    view = core.with_logits(model, "logits")
    with pytest.raises(ValueError, match="given twice, as 0 and 'logits'"):
        core.learn_interpolation(view, batch, val_batch, lr=0.1, logits_of=0)
    with pytest.raises(ValueError, match=r"must be a torch\.nn\.Module, got function"):
        core.learn_interpolation(lambda x: x, batch, val_batch, lr=0.1)  # type: ignore[arg-type]


def test_mode_and_state_are_set_as_the_model_itself_does() -> None:
    """A model that keeps its BatchNorm frozen in training keeps it so."""

    class Frozen(Net):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.norm.eval()
            return self

        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return {"own": super().state_dict(*args, **kwargs)}

        def load_state_dict(self, state: Any, *args: Any, **kwargs: Any) -> Any:
            return super().load_state_dict(state["own"], *args, **kwargs)

    model = Frozen(lambda f: {"logits": f})
    given = core.with_logits(model, "logits")
    assert given.train() is given
    assert (model.training, model.norm.training) == (True, False)
    assert given.eval() is given
    assert not model.training
    given.load_state_dict(given.state_dict())
    assert given.state_dict().keys() == {"own"}
