from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import CheckpointError, checkpoint

from core.mixing.hidden import HiddenMixing


class Nested(nn.Module):
    """Every way in which a layer can be used. Written out again in `by_hand`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Identity(), nn.Sequential(nn.Linear(4, 5), nn.Tanh()))
        self.twice = nn.Linear(5, 5)
        self.pair = Pair()
        self.idle = nn.Linear(5, 5)
        self.total = Total()
        self.input = nn.Linear(5, 5)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.twice(torch.tanh(self.twice(self.stem(x)))))
        a, b = self.pair(h)
        out: Tensor = self.out(self.input(a + b) * self.total(h))
        return out


class Pair(nn.Module):
    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return h, 2 * h


class Total(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h.mean()


def make() -> tuple[Nested, Tensor, Tensor, Tensor]:
    model = Nested().double()
    x = torch.randn(4, 4, dtype=torch.float64)
    return model, x, torch.rand(4, dtype=torch.float64), torch.tensor([1, 2, 3, 0])


def blend(h: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
    return torch.stack(
        [v * h[i] + (1 - v) * h[j] for i, (v, j) in enumerate(zip(lam, partner, strict=True))]
    )


def by_hand(p: Any, x: Tensor, lam: Tensor, partner: Tensor, at: str) -> Tensor:
    def here(name: str, h: Tensor) -> Tensor:
        return blend(h, lam, partner) if name == at else h

    h = here("stem.1.0", here("", x) @ p["stem.1.0.weight"].T + p["stem.1.0.bias"])
    h = here("stem.1", torch.tanh(h))
    for _ in range(2):
        h = torch.tanh(h @ p["twice.weight"].T + p["twice.bias"])
    c = here("input", 3 * h @ p["input.weight"].T + p["input.bias"])
    return (c * h.mean()) @ p["out.weight"].T + p["out.bias"]


@pytest.mark.parametrize("layer", ["", "stem.1.0", "stem.1", "input"])
def test_the_named_layer_is_mixed(layer: str) -> None:
    model, x, lam, partner = make()
    truth = by_hand(dict(model.named_parameters()), x, lam, partner, layer)
    mixing = HiddenMixing(layer)
    torch.testing.assert_close(mixing.logits(model, model, x, lam, partner), truth)
    # The same layer by other parameters, through functional_call.
    theta = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    out = mixing.logits(lambda x: functional_call(model, theta, (x,)), model, x, lam, partner)
    torch.testing.assert_close(out, by_hand(theta, x, lam, partner, layer))


def test_input_names_the_input_where_no_layer_does() -> None:
    model, x, lam, partner = make()
    stem = model.stem
    out = HiddenMixing("input").logits(stem, stem, x, lam, partner)
    torch.testing.assert_close(out, stem(blend(x, lam, partner)))


def test_an_activation_that_works_in_place_changes_nothing() -> None:
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    inplace = nn.Sequential(plain[0], nn.ReLU(inplace=True), plain[2])
    x, partner = torch.randn(3, 3), torch.tensor([1, 2, 0])
    results = []
    for model in (plain, inplace):
        lam = torch.tensor([0.2, 0.5, 0.7], requires_grad=True)
        out = HiddenMixing("0").logits(model, model, x, lam, partner)
        results.append((out, *torch.autograd.grad(out.pow(2).sum(), lam)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_one_layer_is_never_drawn() -> None:
    single = HiddenMixing("a")
    g = torch.Generator().manual_seed(2)
    before = g.get_state()
    assert single.draw(torch.zeros(2, 2), g) is single
    assert torch.equal(g.get_state(), before)
    assert single == HiddenMixing(("a",)) == HiddenMixing(["a"])  # type: ignore[arg-type]


def test_the_draw_takes_one_integer_of_the_stream() -> None:
    for n in (2, 5):
        g, by_hand = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
        mixing = HiddenMixing(tuple("abcdefg"[:n])).draw(torch.zeros(9, 2), g)
        assert mixing.layers == tuple("abcdefg"[:n])
        assert mixing.drawn == "abcdefg"[int(torch.randint(n, (), generator=by_hand))]
        assert torch.equal(g.get_state(), by_hand.get_state())
    before = torch.get_rng_state()
    HiddenMixing(("a", "b")).draw(torch.zeros(9, 2), torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)
    HiddenMixing(("a", "b")).draw(torch.zeros(9, 2), None)
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("twice", "layer 'twice' runs more than once"),
        ("idle", "layer 'idle' did not run in the forward pass"),
        ("pair", r"layer 'pair' must return one floating tensor \[4, ...\].* got tuple"),
        ("total", r"layer 'total' must return .*batch first.*got torch.float64 \[\]"),
        ("stem.2", r"no layer 'stem.2'; it has 'stem', 'stem.0', 'stem.1', 'stem.1.0'"),
    ],
)
def test_layers_that_cannot_be_mixed_are_refused(layer: str, message: str) -> None:
    model, x, lam, partner = make()
    with pytest.raises(ValueError, match=message):
        HiddenMixing(layer).logits(model, model, x, lam, partner)
    assert not any(module._forward_hooks for module in model.modules())


def test_batch_second_and_integers_are_refused() -> None:
    x, lam, partner = torch.randn(3, 2), torch.rand(3), torch.tensor([1, 2, 0])

    class Turn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.T if x.is_floating_point() else x

    model = nn.Sequential(Turn())
    with pytest.raises(ValueError, match=r"must return.*\[3, ...\], batch first.*\[2, 3\]"):
        HiddenMixing("0").logits(model, model, x, lam, partner)
    with pytest.raises(ValueError, match=r"one floating tensor.*got torch.int64 \[3, 2\]"):
        HiddenMixing("0").logits(model, model, x.long(), lam, partner)


def test_an_unknown_name_is_refused_before_it_is_drawn_and_a_long_list_cut() -> None:
    model = nn.Sequential(*[nn.Tanh() for _ in range(30)])
    x, lam, partner = torch.randn(2, 2), torch.rand(2), torch.tensor([1, 0])
    with pytest.raises(ValueError, match=r"no layer 'x'; it has '0', .*'11' and 18 more; 'input'"):
        HiddenMixing(("1", "x"), drawn="1").logits(model, model, x, lam, partner)
    with pytest.raises(ValueError, match=r"several layers, \['1', '2'\], and none drawn yet"):
        HiddenMixing(("1", "2")).logits(model, model, x, lam, partner)
    with pytest.raises(ValueError, match="at least one layer"):
        HiddenMixing(())
    with pytest.raises(ValueError, match=r"one of the layers \['1'\], got '2'"):
        HiddenMixing("1", drawn="2")


def test_no_hook_is_left_after_an_exception() -> None:
    model, x, lam, partner = make()
    hook = model.stem[0].register_forward_hook(lambda *_: None)

    def broken(x: Tensor) -> Tensor:
        model(x)
        raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        HiddenMixing("stem.0").logits(broken, model, x, lam, partner)
    hooks = [id_ for module in model.modules() for id_ in module._forward_hooks]
    assert hooks == [hook.id]


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.reentrant = reentrant

    def block(self, h: Tensor) -> Tensor:
        return torch.tanh(self.b(h))

    def forward(self, x: Tensor) -> Tensor:
        h = checkpoint(self.block, self.a(x), use_reentrant=self.reentrant)
        out: Tensor = self.c(h)
        return out


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("learned", [True, False])
def test_a_layer_inside_a_checkpoint_is_never_silently_unmixed(learned: bool) -> None:
    x, partner = torch.randn(3, 4), torch.tensor([1, 2, 0])
    lam = torch.tensor([0.2, 0.5, 0.7], requires_grad=learned)
    reentrant = Checkpointed(True)
    with pytest.raises(ValueError, match="layer 'b' runs without gradients, as inside a reentrant"):
        HiddenMixing("b").logits(reentrant, reentrant, x, lam, partner)
    model = Checkpointed(False)
    out = HiddenMixing("b").logits(model, model, x, lam, partner)
    with pytest.raises(CheckpointError):
        out.sum().backward()
    with torch.no_grad():  # evaluation has no second run
        HiddenMixing("b").logits(reentrant, reentrant, x, lam, partner)


@pytest.mark.parametrize("layer", ["a", "c", ""])
def test_a_layer_outside_of_a_checkpoint_is_mixed(layer: str) -> None:
    x, partner = torch.randn(3, 4), torch.tensor([1, 2, 0])
    model = Checkpointed(False)
    lam = torch.tensor([0.2, 0.5, 0.7], requires_grad=True)
    wanted = [lam, *model.parameters()]
    out = HiddenMixing(layer).logits(model, model, x, lam, partner)
    slopes = torch.autograd.grad(out.pow(2).sum(), wanted)
    plain = nn.Sequential(model.a, model.b, nn.Tanh(), model.c)
    name = {"a": "0", "c": "3", "": ""}[layer]
    out = HiddenMixing(name).logits(plain, plain, x, lam, partner)
    torch.testing.assert_close(slopes, torch.autograd.grad(out.pow(2).sum(), wanted))


def test_a_compiled_graph_is_refused_and_eager_stance_is_not() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    x, lam, partner = torch.randn(3, 4), torch.rand(3), torch.tensor([1, 2, 0])
    compiled = torch.compile(model, backend="eager")
    clean = compiled(x)
    mixing = HiddenMixing("0")
    with pytest.raises(ValueError, match=r"did not run.*plain module, not a compiled one"):
        mixing.logits(compiled, model, x, lam, partner)
    truth = mixing.logits(model, model, x, lam, partner)
    with torch.compiler.set_stance("force_eager"):
        torch.testing.assert_close(mixing.logits(compiled, model, x, lam, partner), truth)
    torch.testing.assert_close(compiled(x), clean)
