"""What a look at a training says, against brute force over pairs, λ, points and full Hessians."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.analysis import curvature
from core.analysis.config import AnalysisConfig
from core.analysis.curvature import ImagePairs, draw_pairs, look, looks_at
from core.data import ImageSet
from core.data.prepared import CellData
from core.models import build_model
from core.policies import Beta
from core.training.config import TrainingConfig
from core.training.fit import fit
from core.training.prepared_data import prepare_data
from tests.support.digit_trainings import digits, numbers

CONFIG = TrainingConfig(
    "digits", "digits_cnn_smooth", Beta(alpha=1.0), train_size=40, meta_size=20,
    epochs=4, batch_size=16, meta_batch_size=8, lr=0.05, width=2,
    analysis=AnalysisConfig(curvature_pairs=3),
)  # fmt: skip


@functools.cache
def data() -> CellData:
    return prepare_data(CONFIG, digits(), "cpu")


def tiny() -> nn.Module:
    torch.manual_seed(0)
    model = build_model("digits_cnn_smooth", in_channels=1, num_classes=3, image_size=4, width=2)
    nn.init.normal_(model.classifier.weight)
    return model


def tiny_pairs() -> ImagePairs:
    x, other = torch.randn(2, 4, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return ImagePairs(x, other, torch.tensor([0, 1, 2, 0]), torch.tensor([0, 2, 1, 1]))


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (10, (1, 2, 5, 10)),
        (99, (1, 2, 5, 10, 20, 50, 99)),
        (600, (1, 2, 5, 10, 20, 50, 100, 200, 500, 600)),
    ],
)
def test_looks_get_rarer_and_the_last_epoch_is_one(epochs: int, expected: tuple[int, ...]) -> None:
    assert looks_at(epochs) == expected


def test_pairs_are_different_training_images_normalised_with_their_labels() -> None:
    pairs = draw_pairs(data(), 20)
    train = data().train
    everything, labels = next(iter(train.batches([torch.arange(len(train))])))
    everything = data().transform.evaluate(everything)
    actual = torch.cat([pairs.x, pairs.other])
    equal = (actual[:, None] == everything[None]).flatten(2).all(dim=2)
    assert equal.any(dim=0).all()  # 20 pairs of 40 images: each image is in one
    positions = equal.int().argmax(dim=1)
    assert torch.equal(torch.cat([pairs.labels, pairs.other_labels]), labels[positions])
    again = draw_pairs(data(), 20)
    assert torch.equal(pairs.x, again.x)
    assert torch.equal(pairs.other, again.other)


def test_more_pairs_than_there_are_images_for_are_refused() -> None:
    with pytest.raises(
        ValueError, match="21 pairs need 42 different training images, there are 40"
    ):
        draw_pairs(data(), 21)


def test_two_copies_of_an_image_are_no_pair() -> None:
    class Twins:
        def __len__(self) -> int:
            return 4

        def batches(self, order: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
            (chosen,) = order
            # Whatever is drawn, the second pair is of equal images.
            images = torch.tensor([1, 2, 3, 2], dtype=torch.uint8).view(4, 1, 1, 1)
            return [(images.expand(4, 1, 8, 8), torch.arange(4))] if len(chosen) == 4 else []

    twins: ImageSet = Twins()  # type: ignore[assignment]
    pairs = draw_pairs(replace(data(), train=twins), 2)
    assert pairs.labels.tolist() == [0]
    assert pairs.other_labels.tolist() == [2]


def test_every_number_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curvature, "ITERATIONS", 3000)
    monkeypatch.setattr(curvature, "TOLERANCE", 1e-10)
    model, pairs = tiny().double(), tiny_pairs()
    pairs = replace(pairs, x=pairs.x.double(), other=pairs.other.double())
    actual = look(model, pairs)
    model.eval()
    lam = [i / 10 for i in range(1, 10)]
    for output in ("logit", "probability"):
        kappas, ratios, alongs, gaps, losses, bounds = [], [], [], [], [], []
        for i in range(4):
            a, b = pairs.x[i].flatten(), pairs.other[i].flatten()
            label = int(pairs.labels[i])

            def f(v: Tensor, label: int = label, output: str = output) -> Tensor:
                logits = model(v.view(1, 1, 4, 4))[0]
                return (logits if output == "logit" else logits.softmax(dim=0))[label]

            square = float((a - b) @ (a - b))
            u = (a - b) / (a - b).norm()
            hessians = [
                torch.func.jacrev(torch.func.jacrev(f))(b + t * (a - b)).detach()
                for t in (0, 0.25, 0.5, 0.75, 1)
            ]
            kappas.append(max(float(torch.linalg.eigvalsh(h).abs().max()) for h in hessians))
            alongs.append(max(abs(float(u @ h @ u)) for h in hessians))
            fa, fb = float(f(a).detach()), float(f(b).detach())
            y, z = 1.0, float(pairs.other_labels[i] == label)
            here = []
            for value in lam:
                mixed = float(f(value * a + (1 - value) * b).detach())
                gaps.append(abs(mixed - value * fa - (1 - value) * fb))
                losses.append(abs(mixed - value * y - (1 - value) * z))
                bounds.append(value * (1 - value) * square / 2)
                here.append(gaps[-1] / bounds[-1])
            ratios.append(max(here))
        share = np.array(ratios) / kappas
        expected = {
            "kappa": max(kappas),
            "kappa_median": sorted(kappas)[1],
            "ratio": max(ratios),
            "ratio_median": sorted(ratios)[1],
            "share": share.max(),
            "share_median": sorted(share)[1],
            "along_median": sorted(np.array(alongs) / kappas)[1],
            "above": 0,
            "gap": np.mean(gaps),
        }
        if output == "probability":
            expected["mixup_l1"] = np.mean(losses)
            above = np.array(losses) > np.array(bounds) * max(kappas)
            expected["l1_above"] = 100 * np.mean(above)
            assert 0 < above.sum() < len(above)
        for name, value in expected.items():
            assert actual[f"{output}_{name}"] == pytest.approx(value, rel=1e-6), name
        assert 0 <= actual[f"{output}_growth"] < 1e-9
    assert len(actual) == 2 * 10 + 2


def test_a_pair_above_its_estimate_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """At both ends, which alone are looked at, there is next to no curvature, or none at all."""
    monkeypatch.setattr(curvature, "POINTS", 2)
    monkeypatch.setattr(curvature, "ITERATIONS", 1)

    class Bump(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            first = torch.exp(-(x.flatten(1)[:, 0] ** 2) / 0.02)
            return torch.stack([first, torch.zeros_like(first)], dim=1)

    x = torch.zeros(2, 1, 2, 2)
    x[:, 0, 0, 0] = torch.tensor([1.0, 1.5])
    labels = torch.zeros(2, dtype=torch.int64)
    actual = look(Bump(), ImagePairs(x, -x, labels, labels))
    assert actual["logit_above"] == 2
    assert actual["logit_share"] > 1


def test_without_curvature_shares_are_zero() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * x.flatten(1)[:, :3]

    actual = look(Constant(), tiny_pairs())
    for output in ("logit", "probability"):
        for name in ("kappa", "share", "share_median", "along_median", "above", "growth"):
            assert actual[f"{output}_{name}"] == 0.0
        assert actual[f"{output}_ratio"] < 1e-7
    assert actual["probability_l1_above"] == 100.0


def test_a_look_leaves_model_and_random_streams_as_they_are() -> None:
    model = tiny().train()
    model.classifier.weight.grad = torch.ones_like(model.classifier.weight)  # type: ignore[union-attr, operator]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    first = look(model, tiny_pairs())
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["classifier.weight"]
    assert look(model, tiny_pairs()) == first


def test_a_training_is_looked_at_where_it_is_to_be_and_stays_what_it_was() -> None:
    result = numbers(fit(CONFIG, source=digits()))
    plain = numbers(fit(replace(CONFIG, analysis=AnalysisConfig()), source=digits()))
    history, plain_history = result.pop("history"), plain.pop("history")
    assert result == plain
    looked = [{n: v for n, v in metrics.items() if "probability" in n} for metrics in history]
    assert [len(metrics) for metrics in looked] == [12, 12, 0, 12]
    without = [
        {n: v for n, v in metrics.items() if not n.startswith(("logit_", "probability_"))}
        for metrics in history
    ]
    assert without == plain_history
    assert looked[0]["probability_kappa"] > 0
    assert looked[0] != looked[1]


def test_a_network_with_kinks_is_refused() -> None:
    for model in ("digits_cnn", "preact_resnet18"):
        with pytest.raises(ValueError, match=f"smooth network, and the gradient of {model} jumps"):
            replace(CONFIG, model=model)
    assert replace(CONFIG, model="digits_cnn", analysis=AnalysisConfig()).model == "digits_cnn"
