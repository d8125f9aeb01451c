"""What is special about differences: compiled parts run, and how long the step is."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data import Transform, load_source
from core.meta.gradient import hypergradient
from core.models import build_model


def arguments(model: nn.Module, data: SimpleNamespace) -> dict[str, Any]:
    return {"model": model, "lr": 0.3, **vars(data)}


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


# Dynamo looks at `.grad` of every input, and warns itself of it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_parts_stay_compiled(toy: SimpleNamespace) -> None:
    net, data, runs = toy.make_net(), toy.make_data(), []

    def backend(graph: Any, inputs: Any) -> Callable[..., Any]:
        def run(*tensors: Tensor) -> Any:
            runs.append(None)
            return graph(*tensors)

        return run

    truth = hypergradient(**arguments(net, data), engine="unroll")
    net.hidden = torch.compile(net.hidden, backend=backend)
    value = hypergradient(**arguments(net, data), engine="finite_difference")
    assert len(runs) == 4  # the mixed batch three times, the validation batch once
    assert relative_error(value, truth) < 1e-6


@pytest.mark.parametrize(
    ("dtype", "labels", "tolerance"),
    [
        (torch.float32, torch.bfloat16, 1e-2),
        (torch.float32, torch.float16, 1e-2),
        (torch.float64, torch.float32, 1e-6),
    ],
)
def test_soft_labels_and_lambda_may_be_less_precise_than_parameters(
    dtype: torch.dtype, labels: torch.dtype, tolerance: float, toy: SimpleNamespace
) -> None:
    net, data = toy.make_net(dtype=dtype), toy.make_data(dtype=dtype)
    x, y = data.batch
    classes = int(max(y.max(), data.val_batch[1].max())) + 1
    soft = (0.8 * F.one_hot(y, classes) + 0.2 / classes).to(labels)
    data.batch = x, soft
    data.lam = data.lam.to(torch.promote_types(labels, torch.float32))
    value = hypergradient(**arguments(net, data), engine="finite_difference")
    assert value.dtype == data.lam.dtype
    data.batch, data.lam = (x, soft.to(dtype)), data.lam.to(dtype)
    truth = hypergradient(**arguments(net, data), engine="unroll")
    assert relative_error(value.to(dtype), truth) < tolerance


@pytest.mark.parametrize(("dtype", "length"), [(torch.float32, 5e-3), (torch.float64, 1e-9)])
def test_how_far_the_weights_move(dtype: torch.dtype, length: float, toy: SimpleNamespace) -> None:
    net, data = toy.make_net(norm=True, dtype=dtype), toy.make_data(dtype=dtype)
    seen: list[dict[str, Tensor]] = []
    # The module sees the parameters that it is called with.
    net.register_forward_pre_hook(
        lambda module, _: seen.append({n: p.detach() for n, p in module.named_parameters()})
    )
    hypergradient(**arguments(net, data), engine="finite_difference")
    at, _, up, down = seen
    moved = {n: float((up[n] - at[n]).norm() / at[n].norm()) for n in at if at[n].dim() > 1}
    tolerance = 100 * torch.finfo(dtype).eps / length
    assert max(moved.values()) == pytest.approx(length, rel=tolerance)
    assert min(moved.values()) < 0.9 * length
    for n in at:
        torch.testing.assert_close(up[n] + down[n], 2 * at[n])


def test_parameters_too_coarse_for_the_step_are_refused(toy: SimpleNamespace) -> None:
    net, data = toy.make_net(dtype=torch.bfloat16), toy.make_data(dtype=torch.bfloat16)
    data.lam = data.lam.float()
    with pytest.raises(ValueError, match=r"float32 or float64, got torch.bfloat16.*autocast"):
        hypergradient(**arguments(net, data), engine="finite_difference")


class Transformer(nn.Module):
    """Two blocks of attention with GELU over the rows of an 8x8 image."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(8, 16)
        self.position = nn.Parameter(torch.zeros(8, 16))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, 0.0, "gelu", batch_first=True) for _ in range(2)
        )
        self.out = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x.flatten(1, 2)) + self.position
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.out(h.mean(1))
        return out


@pytest.mark.parametrize(("kind", "least"), [("digits_cnn", 0.8), ("transformer", 0.95)])
def test_error_on_trained_networks(kind: str, least: float) -> None:
    """The docstring's figures are of longer trainings; this is their order of size."""
    images = load_source("digits").images("train", None, "cpu")
    transform = Transform.fit(images, flip=False, translate=0)
    generator = torch.Generator().manual_seed(1)

    def draw() -> tuple[Tensor, Tensor]:
        ((x, y),) = images.batches([torch.randperm(len(images), generator=generator)[:64]])
        return transform.evaluate(x), y

    model: nn.Module = Transformer()
    if kind == "digits_cnn":
        model = build_model(kind, in_channels=1, num_classes=10, image_size=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(100):
        x, y = draw()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    for dtype, cosine in ((torch.float32, least), (torch.float64, 1 - 1e-10)):
        model.to(dtype)
        cosines = []
        for _ in range(4):
            batch, val_batch = ((x.to(dtype), y) for x, y in (draw(), draw()))
            lam = torch.rand(64, generator=generator, dtype=dtype)
            partner = torch.randperm(64, generator=generator)
            value, truth = (
                hypergradient(model, batch, val_batch, lam, partner, lr=0.05, engine=engine)
                for engine in ("finite_difference", "unroll")
            )
            cosines.append(float(F.cosine_similarity(value.double(), truth.double(), dim=0)))
        assert sorted(cosines)[1] > cosine
