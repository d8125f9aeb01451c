"""What people bring: models, losses and optimizers of public bug reports, held against training.

The truth is a plain training step on a deep copy: mix by hand, `backward()`, `SGD.step()`,
evaluate; central differences of that in float64. Where a forward pass writes in place or runs
without gradients, a difference sees what autograd is told not to: there the truth is the unroll of
a twin that says the same by `detach`. What cannot be right is refused by name.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import core
from core.random_streams import global_streams
from hpo.bench.compatibility.layers import LAYERS
from hpo.bench.compatibility.truth import Data
from tests.support.differences import differences
from tests.support.losses import brier

LR, H = 0.3, 1e-6
LossOf = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture
def data() -> Data:
    torch.manual_seed(0)
    return Data()


def one_hot(y: Tensor) -> Tensor:
    return F.one_hot(y, 3).double()


def mixed_cross_entropy(data: Data, logits: Tensor, lam: Tensor) -> Tensor:
    y = lam[:, None] * one_hot(data.y) + (1 - lam[:, None]) * one_hot(data.y[data.partner])
    return -(y * logits.log_softmax(1)).sum(1).mean()


def plain_step(
    model: nn.Module,
    data: Data,
    lam: Tensor,
    training: Callable[[Data, Tensor, Tensor], Tensor],
    validation: LossOf,
) -> float:
    """Returns the validation loss after one step of plain training on the mixed batch."""
    model = copy.deepcopy(model)
    x = lam[:, None] * data.x + (1 - lam[:, None]) * data.x[data.partner]
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    training(data, model(x), lam).backward()
    optimizer.step()
    return float(validation(model(data.x_val), data.y_val).detach())


def slopes(
    model: nn.Module,
    data: Data,
    training: Callable[[Data, Tensor, Tensor], Tensor] = mixed_cross_entropy,
    validation: LossOf = F.cross_entropy,
    begin: Callable[[], object] = lambda: None,
) -> Tensor:
    """Central differences of `plain_step`, `begin` called before each, in each λ. [B], float64."""

    def ahead(lam: Tensor) -> float:
        begin()
        return plain_step(model, data, lam, training, validation)

    return differences(ahead, data.lam, H)


def assert_close(value: Tensor, truth: Tensor) -> None:
    assert float(truth.norm()) > 1e-4  # there is something to be right about
    assert float((value - truth).norm() / truth.norm()) < 1e-6


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(model: nn.Module, before: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


# ------------------------------------------------------------------------- what a forward pass does


class Momentum(nn.Module):
    """A key encoder that each forward pass moves towards the query encoder, in place or not."""

    def __init__(self, *, twin: bool, in_graph: bool) -> None:
        super().__init__()
        self.query, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.key = nn.Linear(4, 8).requires_grad_(False)
        self.twin, self.in_graph = twin, in_graph

    def forward(self, x: Tensor) -> Tensor:
        pairs = [*zip(self.key.parameters(), self.query.parameters(), strict=True)]
        if self.twin:
            keys = F.linear(x, *(0.9 * key + 0.1 * query.detach() for key, query in pairs))
        else:
            with torch.no_grad():
                for key, query in pairs:
                    key.mul_(0.9).add_(query, alpha=0.1)
            keys = self.key(x)
        keys = keys if self.in_graph else keys.detach()
        out: Tensor = self.head(torch.tanh(self.query(x)) + keys)
        return out


class MaxNorm(nn.Module):
    """Weights that each forward pass clamps, as in networks for EEG, in place or not."""

    def __init__(self, *, twin: bool) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        with torch.no_grad():
            self.first.weight.clamp_(-0.2, 0.2)
        self.twin = twin

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.first.weight
        if self.twin:
            weight = weight + (weight.clamp(-0.2, 0.2) - weight).detach()
        else:
            weight.data.clamp_(-0.2, 0.2)
        out: Tensor = self.head(torch.tanh(F.linear(x, weight, self.first.bias)))
        return out


class Scaled(nn.Module):
    """A weight over its largest entry, which passes no gradient."""

    def __init__(self, *, twin: bool) -> None:
        super().__init__()
        self.first, self.head, self.twin = nn.Linear(4, 8), nn.Linear(8, 3), twin

    def forward(self, x: Tensor) -> Tensor:
        if self.twin:
            scale = self.first.weight.abs().amax().detach()
        else:
            with torch.no_grad():
                scale = self.first.weight.abs().amax()
        out: Tensor = self.head(torch.tanh(self.first(x) / scale))
        return out


@pytest.mark.parametrize(
    "make",
    [partial(Momentum, in_graph=True), partial(Momentum, in_graph=False), MaxNorm, Scaled],
    ids=["key encoder", "key encoder detached", "max norm", "no_grad"],
)
@pytest.mark.parametrize("engine", ["auto", "unroll", "forward_reverse"])
def test_what_a_forward_pass_does_beside_the_graph(
    make: Callable[..., nn.Module], engine: Any, data: Data
) -> None:
    model, twin = make(twin=False).double(), make(twin=True).double()
    twin.load_state_dict(model.state_dict())
    before = state(model)
    value = core.hypergradient(model, *data.arguments, lr=LR, engine=engine)
    assert_same(model, before)
    assert_close(value, core.hypergradient(twin, *data.arguments, lr=LR, engine="unroll"))


def test_an_embedding_with_a_largest_norm_is_left_alone(data: Data) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(6, 4, max_norm=0.5), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.cat([x, self.embedding(torch.arange(len(x)))], 1))
            return out

    model = Net().double()
    before = state(model)
    core.learn_interpolation(model, *data.arguments[:2], lr=LR)
    assert_same(model, before)


def test_the_cache_of_parametrizations(data: Data) -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 8)), nn.Tanh(), nn.Linear(8, 3))
    model.double()
    truth = slopes(model, data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = state(model)
    with parametrize.cached():
        assert_close(core.hypergradient(model, *data.arguments, lr=LR), truth)
        core.metamixup_step(model, optimizer, *data.arguments[:2])
    for name, p in model.named_parameters():
        assert not torch.equal(p, before[name]), name
    assert not parametrize._cache_enabled


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.utils.weight_norm(nn.Linear(4, 8)),
        lambda: nn.utils.spectral_norm(nn.Linear(4, 8)),
        lambda: prune.l1_unstructured(nn.Linear(4, 8), "weight", amount=0.5),
    ],
    ids=["weight_norm", "spectral_norm", "prune"],
)
def test_a_weight_computed_before_the_forward_pass_is_put_back(
    layer: Callable[[], nn.Module], data: Data
) -> None:
    model = nn.Sequential(layer(), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    model(data.x)
    weight = model[0].weight
    value = core.hypergradient(model, *data.arguments, lr=LR)
    assert model[0].weight is weight
    assert_close(value, core.hypergradient(model, *data.arguments, lr=LR, engine="unroll"))


class Drops(nn.Module):
    """Drops a layer by Python's stream, scales by NumPy's: each pass draws anew."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        if random.random() < 0.5:
            h = h + torch.tanh(self.second(h))
        out: Tensor = self.head(h) * np.random.uniform(0.5, 1.5)  # noqa: NPY002
        return out


@pytest.mark.parametrize("engine", ["auto", "unroll", "forward_reverse", "finite_difference"])
def test_streams_of_python_and_numpy(engine: Any, data: Data) -> None:
    def seed() -> None:
        random.seed(3)  # the layer is there in training and left out in validation
        np.random.seed(3)  # noqa: NPY002

    model = Drops().double()
    truth = slopes(model, data, begin=seed)
    seed()
    before = global_streams()
    value = core.hypergradient(model, *data.arguments, lr=LR, engine=engine)
    assert global_streams() == before
    assert float(truth.norm()) > 1e-4
    assert float((value - truth).norm() / truth.norm()) < 1e-5


def test_recurrent_layers_run_without_cudnn_kernels(data: Data) -> None:
    seen = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head = nn.GRU(2, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.backends.cudnn.enabled)
            out: Tensor = self.head(self.recurrent(x.view(-1, 2, 2))[0][:, -1])
            return out

    model = Net().double()
    before = torch.backends.cudnn.enabled
    value = core.hypergradient(model, *data.arguments, lr=LR)
    assert not any(seen)
    assert torch.backends.cudnn.enabled is before
    assert_close(value, slopes(model, data))


# ------------------------------------------------------------------------------------------- losses


def weighted(data: Data, logits: Tensor, lam: Tensor, weight: Tensor) -> Tensor:
    """Returns the mix of torch's weighted losses over the mix of the weights, by hand."""
    losses = -logits.log_softmax(1)
    y, z = data.y, data.y[data.partner]
    rows = torch.arange(len(y))
    total = lam * weight[y] * losses[rows, y] + (1 - lam) * weight[z] * losses[rows, z]
    return total.sum() / (lam * weight[y] + (1 - lam) * weight[z]).sum()


class Named(nn.CrossEntropyLoss):
    """As people derive from it, to keep settings."""


WEIGHT = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(WEIGHT),
        Named(WEIGHT),
        partial(F.cross_entropy, weight=WEIGHT),
        core.IndexLoss(nn.CrossEntropyLoss(WEIGHT, reduction="none")),
    ],
    ids=["torch's", "derived", "partial", "by index"],
)
def test_class_weights_are_those_of_plain_training(loss: Any, data: Data) -> None:
    weight, plain = WEIGHT, nn.CrossEntropyLoss(WEIGHT)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    unmixed = core.NoMix()(model, None, (data.x, data.y)).objective(model, (data.x, data.y), loss)
    assert float(unmixed.detach()) == pytest.approx(float(plain(model(data.x), data.y).detach()))
    value = core.hypergradient(model, *data.arguments, lr=LR, loss=loss)
    truth = slopes(model, data, lambda d, f, lam: weighted(d, f, lam, weight), plain)
    assert_close(value, truth)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        F.cross_entropy,
        core.IndexLoss(nn.CrossEntropyLoss(reduction="none")),
    ],
    ids=["torch's", "function", "by index"],
)
def test_ignored_labels_are_those_of_plain_training(loss: Any, data: Data) -> None:
    data.y[:2], data.y_val[0] = -100, -100
    plain = nn.CrossEntropyLoss()
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    unmixed = core.NoMix()(model, None, (data.x, data.y)).objective(model, (data.x, data.y), loss)
    assert float(unmixed.detach()) == pytest.approx(float(plain(model(data.x), data.y).detach()))

    def by_hand(data: Data, logits: Tensor, lam: Tensor) -> Tensor:
        seen = (data.y >= 0).double()
        y, z = data.y.clamp_min(0), data.y.clamp_min(0)[data.partner]
        losses, rows = -logits.log_softmax(1), torch.arange(len(y))
        first, second = lam * seen, (1 - lam) * seen[data.partner]
        total = first * losses[rows, y] + second * losses[rows, z]
        return total.sum() / (first + second).sum()

    value = core.hypergradient(model, *data.arguments, lr=LR, loss=loss)
    assert_close(value, slopes(model, data, by_hand, plain))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_loss_of_soft_labels_gets_soft_labels_to_validate(size: int, data: Data) -> None:
    """Integer labels [M] would broadcast against [M, C] where M is C or 1."""
    data.x_val, data.y_val = data.x_val[:size], data.y_val[:size]

    def mixed(data: Data, logits: Tensor, lam: Tensor) -> Tensor:
        y = lam[:, None] * one_hot(data.y) + (1 - lam[:, None]) * one_hot(data.y[data.partner])
        return brier(logits, y)

    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    value = core.hypergradient(model, *data.arguments, lr=LR, loss=brier)
    assert_close(value, slopes(model, data, mixed, lambda f, y: brier(f, one_hot(y))))


@pytest.mark.parametrize("loss", [core.soft_cross_entropy, F.cross_entropy, nn.CrossEntropyLoss()])
def test_softmax_over_one_class_is_refused(loss: Any, data: Data) -> None:
    model = nn.Linear(4, 1).double()
    labels, labels_val = (data.y > 0).double()[:, None], (data.y_val > 0).double()[:, None]
    batch, val_batch = (data.x, labels), (data.x_val, labels_val)
    with pytest.raises(ValueError, match=r"one class is constant.*BCEWithLogitsLoss"):
        core.learn_interpolation(model, batch, val_batch, lr=LR, loss=loss)
    learned = core.learn_interpolation(
        model, batch, val_batch, lr=LR, loss=nn.BCEWithLogitsLoss()
    ).hypergradient
    assert learned is not None
    assert float(learned.abs().max()) > 0


class Listed(nn.Module):
    """Its last layer is in a plain list, which torch does not look into."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Linear(4, 8).double(), [nn.Linear(8, 3).double()]

    def forward(self, x: Tensor) -> Tensor:
        return self.rest[0](torch.tanh(self.first(x)))


@pytest.mark.parametrize("engine", ["auto", "unroll", "forward_reverse", "finite_difference"])
def test_parameters_that_the_optimizer_alone_holds_are_refused_where_the_loss_reads_them(
    engine: Any, data: Data
) -> None:
    model, unread = Listed(), nn.Linear(8, 3).double()
    given = {"lam": data.lam, "partner": data.partner, "engine": engine}
    batches = (data.x, data.y), (data.x_val, data.y_val)

    def learned(*modules: nn.Module, **rates: Any) -> Tensor | None:
        if not rates:
            parameters = [p for module in modules for p in module.parameters()]
            rates["optimizer"] = torch.optim.SGD(parameters, lr=LR)
        return core.learn_interpolation(model, *batches, **given, **rates).hypergradient

    with pytest.raises(ValueError, match=r"shape \[3, 8\] that the optimizer holds and the model"):
        learned(model, model.rest[0])
    # What the loss does not read, and what the user takes for a constant, is none.
    plain = learned(model)
    for other in (learned(model, unread), learned(lr=LR)):
        assert plain is not None
        assert other is not None
        assert torch.equal(plain, other)


class Normalizing(nn.Module):
    """It normalizes its input in place, as some data pipelines' first layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.sub_(0.5).div_(2.0))


def smoothed_in_place(f: Tensor, y: Tensor) -> Tensor:
    return core.soft_cross_entropy(f, y.mul_(0.9).add_(0.1 / 3))


@pytest.mark.parametrize(
    "policy",
    [core.Learned(), core.Learned(mixing=core.HiddenMixing("layer")), core.LearningToReweight(),
     core.MetaWeightNet(), core.Learned(engine="compiled"),
     core.policies.EvolvedBeta(begin=0.0, every=1, average_over=1), None],
    ids=["input", "hidden", "l2rw", "mwn", "compiled", "evolved", "examination"],
)  # fmt: skip
def test_what_the_model_or_the_loss_writes_to_is_never_the_callers(
    policy: Any, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in a policy's step nor in an examination."""
    monkeypatch.setattr("core.meta.engines.compiled.BACKEND", "aot_eager")  # C++ takes longer
    model = Normalizing()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    given = [data.x, one_hot(data.y), data.x_val, one_hot(data.y_val)]
    x, y, x_val, y_val = (t.clone() for t in given)
    # Meta-Weight-Net needs the loss of each sample.
    more = {} if isinstance(policy, core.MetaWeightNet) else {"loss": smoothed_in_place}
    if policy is None:
        core.examine(model, (x, y), (x_val, y_val), optimizer=optimizer)
    else:
        policy.at(0, 4)
        policy(model, optimizer, (x, y), (x_val, y_val), generator=torch.Generator(), **more)
    for tensor, as_given in zip((x, y, x_val, y_val), given, strict=True):
        assert torch.equal(tensor, as_given)


def test_a_penalty_over_collected_parameters_is_refused(data: Data) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    collected = list(model.parameters())

    def penalty(parameters: Any) -> Tensor:
        return 0.5 * sum(p.pow(2).sum() for p in parameters)

    for engine in ("auto", "unroll", "forward_reverse", "finite_difference", "compiled"):
        with pytest.raises(ValueError, match=r"parameter '0.weight'|parameter '\d.\w+'"):
            core.hypergradient(
                model,
                *data.arguments,
                lr=LR,
                engine=engine,  # type: ignore[arg-type]
                loss=lambda f, t: core.soft_cross_entropy(f, t) + penalty(collected),
            )

    value = core.hypergradient(
        model,
        *data.arguments,
        lr=LR,
        loss=lambda f, t: core.soft_cross_entropy(f, t) + penalty(model.parameters()),
    )
    without = core.hypergradient(model, *data.arguments, lr=LR)
    assert not torch.allclose(value, without)
    assert_close(without, slopes(model, data))


# ---------------------------------------------------------------- operations and their derivatives


def network(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 3)).double()


class InPlace(nn.Module):
    """An activation, and something done in place to what it returns."""

    def __init__(self, activation: Callable[[Tensor], Tensor], change: Callable[[Tensor], Any]):
        super().__init__()
        self.activation, self.change = activation, change

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(x)
        self.change(out)
        return out


@pytest.mark.parametrize(
    "layer",
    [
        InPlace(F.leaky_relu, lambda out: out.mul_(2)),
        InPlace(F.leaky_relu, lambda out: out.add_(1)),
        InPlace(F.silu, lambda out: out.mul_(2)),
    ],
    ids=["leaky times", "leaky plus", "SiLU times"],
)
def test_operations_differentiated_twice(layer: nn.Module, data: Data) -> None:
    model = network(layer)
    assert_close(core.hypergradient(model, *data.arguments, lr=LR), slopes(model, data))


@pytest.mark.parametrize("engine", ["forward_reverse", "finite_difference"])
def test_sparse_gradients_are_refused_by_name(engine: Any, data: Data) -> None:
    model = network(LAYERS["Embedding (sparse)"]())
    with pytest.raises(ValueError, match=r"sparse gradients.*engine=\"auto\""):
        core.hypergradient(model, *data.arguments, lr=LR, engine=engine)


# ---------------------------------------------------------------- optimizers, batches, surroundings


def test_an_optimizer_whose_zero_grad_takes_nothing(data: Data) -> None:
    class Old(torch.optim.SGD):
        def zero_grad(self) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad = None

    model = nn.Linear(4, 3).double()
    before = state(model)
    core.metamixup_step(model, Old(model.parameters(), lr=0.1), *data.arguments[:2])
    assert not torch.equal(model.weight, before["weight"])


def test_an_optimizer_without_a_rate_or_without_the_model_is_refused(data: Data) -> None:
    model = nn.Linear(4, 3).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other = copy.deepcopy(model)
    with pytest.raises(ValueError, match="holds no parameter of this model"):
        core.metamixup_step(other, optimizer, *data.arguments[:2])
    optimizer.param_groups[0]["lr"] = None
    with pytest.raises(ValueError, match=r"no learning rate.*give it as `lr`"):
        core.learn_interpolation(model, *data.arguments[:2], optimizer=optimizer)
    learned = core.learn_interpolation(model, *data.arguments[:2], optimizer=optimizer, lr=LR)
    assert learned.change is not None
    assert bool(learned.change.any())
    del optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match="no learning rate"):
        core.learn_interpolation(model, *data.arguments[:2], optimizer=optimizer)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b, v: ((*b, b[1]), v), "training batch must be a pair.*tuple of 3"),
        (lambda b, v: ({"x": b[0], "y": b[1]}, v), "training batch must be a pair.*dict"),
        (lambda b, v: (((b[0], b[0]), b[1]), v), "training inputs must be one tensor, got tuple"),
        (lambda b, v: ((b[0].numpy(), b[1]), v), "training inputs must be one tensor, got ndarray"),
        (lambda b, v: ((b[0], (b[1], b[1])), v), "training labels must be one tensor, got tuple"),
        (lambda b, v: (b, [v]), "meta-validation batch must be a pair.*list of 1"),
        (lambda b, v: (b, None), "meta-validation batch must be a pair.*NoneType"),
    ],
)
def test_batches_of_other_kinds_are_refused(spoil: Any, message: str, data: Data) -> None:
    model = nn.Linear(4, 3).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch, val_batch = spoil(*data.arguments[:2])
    with pytest.raises(ValueError, match=message):
        core.metamixup_step(model, optimizer, batch, val_batch)


@pytest.mark.parametrize("output", [lambda f: (f, f), lambda f: {"logits": f}, lambda f: f[:2]])
def test_outputs_of_other_kinds_are_refused(output: Any, data: Data) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Any:
            return output(self.head(x))

    model = Net().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch, val_batch = data.arguments[:2]
    with pytest.raises(ValueError, match=r"return logits \[6, C\].*logits_of="):
        core.mixed_step(model, optimizer, batch, core.Beta()(model, optimizer, batch))
    with pytest.raises(ValueError, match=r"must return logits \[6, C\]"):
        core.metamixup_step(model, optimizer, batch, val_batch)


def test_inference_mode_is_refused_and_no_grad_is_not(data: Data) -> None:
    model = nn.Linear(4, 3).double()
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode forbids"):
        core.learn_interpolation(model, *data.arguments[:2], lr=LR)
    with torch.no_grad():
        core.learn_interpolation(model, *data.arguments[:2], lr=LR)


def test_a_whole_step_under_no_grad_is_the_same(data: Data) -> None:
    steps = []
    for grad in (True, False):
        torch.manual_seed(2)
        model = nn.Linear(4, 3).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        with torch.set_grad_enabled(grad):
            result = core.metamixup_step(model, optimizer, *data.arguments[:2])
        steps.append([*vars(result).values(), *(p.detach() for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))


def test_token_ids_are_mixed_where_they_are_embedded() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 8), nn.Linear(8, 3)

        def forward(self, ids: Tensor) -> Tensor:
            out: Tensor = self.head(torch.tanh(self.embedding(ids)).mean(1))
            return out

    torch.manual_seed(0)
    model, data = Text().double(), Data()
    data.x, data.x_val = torch.randint(9, (6, 5)), torch.randint(9, (5, 5))
    mixing = core.HiddenMixing("embedding")
    value = core.hypergradient(model, *data.arguments, lr=LR, mixing=mixing)

    def evaluated(lam: Tensor) -> float:
        stepped = copy.deepcopy(model)
        h = stepped.embedding(data.x)
        h = lam[:, None, None] * h + (1 - lam[:, None, None]) * h[data.partner]
        optimizer = torch.optim.SGD(stepped.parameters(), lr=LR)
        mixed_cross_entropy(data, stepped.head(torch.tanh(h).mean(1)), lam).backward()
        optimizer.step()
        return float(F.cross_entropy(stepped(data.x_val), data.y_val).detach())

    assert_close(value, differences(evaluated, data.lam, H))
    with pytest.raises(ValueError, match=r"floating point to be mixed.*HiddenMixing"):
        core.hypergradient(model, *data.arguments, lr=LR)


# --------------------------------------------------------------------- numbers that are not finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "policy",
    [core.Learned(), core.Learned(placebo=True), core.Amortised(every=2), core.PersistentScores()],
    ids=["learned", "placebo", "amortised", "scores"],
)
def test_a_bad_validation_number_moves_nothing(policy: Any, bad: float, data: Data) -> None:
    policy = copy.deepcopy(policy)
    model = network(nn.Tanh())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch, val_batch = data.arguments[:2]
    spoiled = data.x_val.clone()
    spoiled[0, 0] = bad
    stream = torch.Generator().manual_seed(1)
    for step in range(6):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "a hypergradient was not finite", RuntimeWarning)
            given = policy(
                model,
                optimizer,
                batch,
                (spoiled, data.y_val) if step == 0 else val_batch,
                generator=stream,
                indices=torch.arange(6),
            )
        assert bool(given.lam.isfinite().all()), step
        if step == 0:
            assert not bool(given.change.any())
            assert not bool(given.hypergradient.isfinite().all())  # told as it is
        core.mixed_step(model, optimizer, batch, given)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert bool(given.change.any())  # it learned afterwards


def test_a_hypergradient_that_is_not_finite_is_said_and_not_kept(data: Data) -> None:
    model = network(nn.Tanh())
    refreshed = core.ValidationGradient(5)
    batch, val_batch = data.arguments[:2]
    spoiled = (torch.full_like(data.x_val, float("nan")), data.y_val)
    with pytest.warns(RuntimeWarning, match="not finite, so λ was not moved"):
        core.learn_interpolation(model, batch, spoiled, lr=LR, validation_gradient=refreshed)
    assert refreshed.due()
    learned = core.learn_interpolation(
        model, batch, val_batch, lr=LR, validation_gradient=refreshed
    )
    assert learned.change is not None
    assert bool(learned.change.any())


def test_a_validation_gradient_of_other_parameters_is_not_used(data: Data) -> None:
    def stage(refreshed: core.ValidationGradient | None = None) -> Tensor:
        learned = core.learn_interpolation(
            model,
            *data.arguments[:2],
            lr=LR,
            lam=data.lam,
            partner=data.partner,
            validation_gradient=refreshed,
        ).hypergradient
        assert learned is not None
        return learned

    layers = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)
    model = nn.Sequential(*layers).double()
    refreshed = core.ValidationGradient(100)
    model[0].requires_grad_(False)
    stage(refreshed)
    model[0].requires_grad_(True)
    model[2].requires_grad_(False)  # as many numbers, another layer
    assert torch.equal(stage(refreshed), stage())
    model.requires_grad_(True)
    assert torch.equal(stage(refreshed), stage())
    resumed = core.ValidationGradient(100)
    resumed.load_state_dict(refreshed.state_dict())
    assert torch.equal(stage(resumed), stage(refreshed))
