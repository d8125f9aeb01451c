"""What a block is; the hypergradient through the last of them, by hand."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from core.meta.gradient import hypergradient
from core.metamixup import learn_interpolation
from core.models import MODELS, build_model
from core.user_model.blocks import blocks, last_blocks

EXACT = ("unroll", "double_backward", "forward_reverse")


def flat(actual: list[list[str]]) -> list[str]:
    return [name for names in actual for name in names]


def heads(actual: list[list[str]]) -> list[str]:
    """Returns the module that each block is, from the common beginning of its names."""
    heads = []
    for names in actual:
        common = names[0].rpartition(".")[0]
        while common and not all(name.startswith(f"{common}.") for name in names):
            common = common.rpartition(".")[0]
        heads.append(common)
    return heads


def trunk(*indices: int) -> list[str]:
    return [f"trunk.{i}" for i in indices]


OURS = {
    "cnn": [*trunk(0, 3, 5, 8, 11), "classifier"],
    "cnn_2d": [*trunk(0, 3, 5, 8, 11, 14), "classifier"],
    "digits_cnn": [*trunk(0, 2, 6), "classifier"],
    "preact_resnet18": [*trunk(*range(9)), "classifier"],
    "preact_resnet34": [*trunk(*range(17)), "classifier"],
}


@pytest.mark.parametrize("name", MODELS)
def test_our_models(name: str) -> None:
    model = build_model(name, in_channels=1, num_classes=3, image_size=8, width=2)
    actual = blocks(model)
    assert flat(actual) == [name for name, _ in model.named_parameters()]
    assert actual[-1] == ["classifier.weight", "classifier.bias"]
    assert len(actual) >= 4
    if name in OURS:
        assert heads(actual) == OURS[name]


class Wrapper(nn.Module):
    """One child, and perhaps a parameter of its own."""

    def __init__(self, inner: nn.Module, own: bool = False):
        super().__init__()
        self.inner = inner
        if own:
            self.token = nn.Parameter(torch.zeros(2))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)


class Scaled(nn.Sequential):
    """A Sequential with a parameter of its own: a unit, no plain container."""

    def __init__(self, *layers: nn.Module):
        super().__init__(*layers)
        self.scale = nn.Parameter(torch.ones(2))


class Net(nn.Module):
    def __init__(self, **children: nn.Module):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


def tied() -> nn.Module:
    model = Net(embed=nn.Linear(2, 2), body=nn.Linear(2, 2), decode=nn.Linear(2, 2))
    model.decode.weight = model.embed.weight  # type: ignore[union-attr, assignment]
    return model


def wholly_tied() -> nn.Module:
    shared = nn.Linear(2, 2)
    return Net(a=shared, b=nn.Linear(2, 2), c=nn.Sequential(shared, nn.ReLU()))


def root() -> nn.Module:
    model = Net(a=nn.Linear(2, 2), b=nn.Linear(2, 2))
    model.token = nn.Parameter(torch.zeros(2))
    return model


def linear(path: str) -> list[str]:
    return [f"{path}.weight", f"{path}.bias"]


ODD: dict[str, tuple[nn.Module, list[list[str]]]] = {
    "no parameters": (nn.Sequential(nn.ReLU(), nn.Flatten()), []),
    "one layer": (nn.Linear(2, 2), [["weight", "bias"]]),
    "a sequence": (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)),
        [linear("0"), linear("2")]),
    "parameters at the root": (root(), [["token"], linear("a"), linear("b")]),
    "tied weights": (tied(), [linear("embed"), linear("body"), ["decode.bias"]]),
    "a module used twice": (wholly_tied(), [linear("a"), linear("b")]),
    "nested containers": (
        Net(a=nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.ModuleList([nn.Linear(2, 2)])),
            b=nn.Linear(2, 2)),
        [linear("a.0.0"), linear("a.1.0"), linear("b")],
    ),
    "a child is a unit": (
        Net(a=Residual(), b=nn.Linear(2, 2)), [linear("a.a") + linear("a.b"), linear("b")],
    ),
    "a container of one unit": (
        Net(a=nn.Sequential(Residual()), b=nn.Linear(2, 2)),
        [linear("a.0.a") + linear("a.0.b"), linear("b")],
    ),
    "a container of its own kind": (
        Net(a=Scaled(nn.Linear(2, 2), nn.Linear(2, 2)), b=nn.Linear(2, 2)),
        [["a.scale", *linear("a.0"), *linear("a.1")], linear("b")],
    ),
    "wrapped": (Wrapper(Residual()), [linear("inner.a"), linear("inner.b")]),
    "wrapped twice": (
        Wrapper(Wrapper(Net(a=Residual(), b=nn.Linear(2, 2)))),
        [linear("inner.inner.a.a") + linear("inner.inner.a.b"), linear("inner.inner.b")],
    ),
    "wrapped, with parameters on the way": (
        Wrapper(Wrapper(Residual(), own=True), own=True),
        [["token"], ["inner.token"], linear("inner.inner.a"), linear("inner.inner.b")],
    ),
    "a wrapped layer": (Wrapper(nn.Linear(2, 2)), [linear("inner")]),
    "beside children without parameters": (
        Net(a=nn.ReLU(), b=Wrapper(Residual()), c=nn.Dropout()),
        [linear("b.inner.a"), linear("b.inner.b")],
    ),
    "with a unit that wraps": (
        Net(a=Wrapper(Residual()), b=nn.Linear(2, 2)),
        [linear("a.inner.a") + linear("a.inner.b"), linear("b")],
    ),
    "a transformer": (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 4, batch_first=True), 2,
            enable_nested_tensor=False),
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "expected"), ODD.values(), ids=ODD)
def test_odd_models(model: nn.Module, expected: list[list[str]]) -> None:
    actual = blocks(model)
    if isinstance(model, nn.TransformerEncoder):
        assert heads(actual) == ["layers.0", "layers.1"]
    else:
        assert actual == expected
    # Nothing is lost and nothing is twice.
    assert sorted(flat(actual)) == sorted(name for name, _ in model.named_parameters())


def test_the_last_of_them_by_name() -> None:
    model = tied()
    assert last_blocks(model, 1) == {"decode.bias"}
    assert last_blocks(model, 2) == {"decode.bias", *linear("body")}
    assert last_blocks(model, 3) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("count", [0, -1, 4])
def test_there_are_no_more_than_there_are(count: int) -> None:
    message = rf"last_blocks must lie in \[1, 3\], .* \(token, a, b\); got {count}"
    with pytest.raises(ValueError, match=message):
        last_blocks(root(), count)


# ------------------------------------------------------------------------------- the hypergradient

BLOCKS = ["inp", "norm", "hidden", "again", "out"]
"""Of the toy network with everything; `again` has no weight of its own."""
RATE = 0.3


@pytest.fixture
def setup(toy: SimpleNamespace) -> SimpleNamespace:
    net = toy.make_net(norm=True, drop=True, tied=True)
    return SimpleNamespace(net=net, toy=toy, **vars(toy.make_data()))


def by_hand(s: SimpleNamespace, count: int, optimizer: optim.SGD | None = None) -> Tensor:
    """Returns the unroll as formulas: the parameters of the last blocks move, the others do not."""
    lam = s.lam.clone().requires_grad_()
    p = {name: t.detach().requires_grad_() for name, t in s.net.named_parameters()}
    moving = [name for name in p if name.split(".")[0] in BLOCKS[-count:]]
    mask, val_mask = s.toy.masks(s.net, (len(s.lam), len(s.val_batch[0])))

    def mixed(t: Tensor) -> Tensor:
        return lam[:, None] * t + (1 - lam)[:, None] * t[s.partner]

    x, y = s.batch
    loss = s.toy.explicit_loss(
        s.toy.explicit_logits(s.net, p, mixed(x), mask), mixed(s.toy.one_hot(y))
    )
    grads = torch.autograd.grad(loss, [p[name] for name in moving], create_graph=True)
    prime = dict(p)
    for name, g in zip(moving, grads, strict=True):
        if optimizer is not None:
            state = optimizer.state[s.net.get_parameter(name)]
            g = 0.9 * state["momentum_buffer"] + g + 0.1 * p[name]
        prime[name] = p[name] - RATE * g
    x, y = s.val_batch
    meta = s.toy.explicit_loss(s.toy.explicit_logits(s.net, prime, x, val_mask), s.toy.one_hot(y))
    return torch.autograd.grad(meta, lam)[0]


def by_code(s: SimpleNamespace, **more: Any) -> Tensor:
    if "optimizer" not in more:
        more["lr"] = RATE
    return hypergradient(s.net, s.batch, s.val_batch, s.lam, s.partner, **more)


@pytest.mark.parametrize(
    ("count", "engine"),
    [*((count, "double_backward") for count in range(1, 6)), (2, "unroll"), (2, "forward_reverse")],
)
def test_through_the_last_blocks_by_hand(count: int, engine: Any, setup: SimpleNamespace) -> None:
    assert len(blocks(setup.net)) == 5
    actual = by_code(setup, last_blocks=count, engine=engine)
    torch.testing.assert_close(actual, by_hand(setup, count), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("engine", EXACT)
def test_with_the_optimizers_own_step(engine: Any, setup: SimpleNamespace) -> None:
    optimizer = optim.SGD(setup.net.parameters(), lr=RATE, momentum=0.9, weight_decay=0.1)
    setup.toy.warm_up(setup.net, optimizer)
    actual = by_code(setup, last_blocks=2, engine=engine, optimizer=optimizer)
    torch.testing.assert_close(actual, by_hand(setup, 2, optimizer), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("engine", EXACT)
def test_all_blocks_are_the_exact_derivative(engine: Any, setup: SimpleNamespace) -> None:
    everything = by_code(setup, engine=engine)
    assert torch.equal(by_code(setup, last_blocks=5, engine=engine), everything)
    assert not torch.allclose(by_code(setup, last_blocks=4, engine=engine), everything)


def test_frozen_parameters_of_the_last_blocks_stay_where_they_are(setup: SimpleNamespace) -> None:
    whole = by_code(setup, last_blocks=1)
    setup.net.hidden.requires_grad_(False)
    setup.net.again.bias.requires_grad_(False)
    assert torch.equal(by_code(setup, last_blocks=3), whole)


def test_frozen_last_blocks_are_refused(setup: SimpleNamespace) -> None:
    setup.net.out.requires_grad_(False)
    with pytest.raises(ValueError, match="its last 1 blocks have no trainable parameter"):
        by_code(setup, last_blocks=1)


def test_the_policys_road_passes_it_on(setup: SimpleNamespace) -> None:
    given = learn_interpolation(
        setup.net, setup.batch, setup.val_batch, lr=RATE, lam=setup.lam, partner=setup.partner,
        last_blocks=2,
    )  # fmt: skip
    assert given.hypergradient is not None
    torch.testing.assert_close(given.hypergradient, by_hand(setup, 2), rtol=1e-10, atol=1e-13)


class Masks(TorchDispatchMode):
    """Which gradients each backward pass of a convolution computes: of x, weight, bias."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.seen.append(tuple(args[-1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("norm", [False, True])
def test_the_trunk_gets_no_weight_gradients(norm: bool) -> None:
    """Convolutions in units of a forward pass on one image: the virtual pass, the validation pass,
    and one pass back from the last block to λ."""
    trunk = [nn.Conv2d(2, 4, 3, bias=False), *([nn.BatchNorm2d(4)] if norm else []), nn.Tanh(),
             nn.Conv2d(4, 5, 3), nn.Tanh()]  # fmt: skip
    net = nn.Sequential(*trunk, nn.Flatten(), nn.Linear(80, 3))
    n, m = 6, 4
    x, y = torch.randn(n + m, 2, 8, 8), torch.randint(3, (n + m,))
    one = (6 * 6 * 4 * 2 * 9 + 4 * 4 * 5 * 4 * 9) * 2
    before = copy.deepcopy(net.state_dict())
    with Masks() as masks, FlopCounterMode(display=False) as counter:
        hypergradient(
            net, (x[:n], y[:n]), (x[n:], y[n:]), torch.rand(n), torch.arange(n).roll(1), lr=0.1,
            last_blocks=1,
        )  # fmt: skip
    assert masks.seen == [(True, False, False)] * 2
    counts = {str(k): v for k, v in counter.get_flop_counts()["Global"].items()}
    actual = sum(v for k, v in counts.items() if "convolution" in k)
    assert actual == one * (n + m + n)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
