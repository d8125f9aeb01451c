from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from core.mixing.batch import (
    check_batch,
    check_lam,
    check_partner,
    draw_beta,
    draw_partners,
    mix_inputs,
    mix_labels,
    soft_cross_entropy,
    soft_labels,
)
from core.mixing.interpolation import Interpolation


def test_mixes_inputs_and_labels_by_hand() -> None:
    x = torch.tensor([[0.0, 2.0], [4.0, 6.0], [8.0, -2.0]])
    lam, partner = torch.tensor([0.25, 1.0, 0.5]), torch.tensor([1, 2, 0])
    assert mix_inputs(x, lam, partner).tolist() == [[3.0, 5.0], [4.0, 6.0], [4.0, 0.0]]
    expected = [[0.25, 0.75, 0.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]
    assert mix_labels(torch.tensor([0, 1, 2]), lam, partner, 3).tolist() == expected
    soft = torch.tensor([[0.5, 0.5], [0.0, 1.0], [1.0, 0.0]])
    assert mix_labels(soft, lam, partner, 2).tolist() == [[0.125, 0.875], [0.0, 1.0], [0.75, 0.25]]


def test_interpolation_mixes_with_its_own_lam_and_partner() -> None:
    interpolation = Interpolation(torch.tensor([0.25, 0.5]), torch.tensor([1, 0]), torch.zeros(2))
    assert interpolation.mix_inputs(torch.tensor([[0.0], [4.0]])).tolist() == [[3.0], [2.0]]
    mixed = interpolation.mix_labels(torch.tensor([1, 0]), 2)
    assert mixed.tolist() == [[0.75, 0.25], [0.5, 0.5]]


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 4), (3, 2, 4, 5), (3, 1, 2, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_mixing_keeps_shape_and_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape).to(dtype)
    mixed = mix_inputs(x, torch.tensor([0.25, 0.5, 1.0]), torch.tensor([2, 2, 0]))
    assert mixed.shape == x.shape
    assert mixed.dtype == dtype
    assert torch.equal(mixed[2], x[2])
    torch.testing.assert_close(mixed[1], 0.5 * x[1] + 0.5 * x[2], rtol=2e-2, atol=2e-2)


def test_mixing_keeps_channels_last() -> None:
    x = torch.randn(4, 3, 5, 6).contiguous(memory_format=torch.channels_last)
    mixed = mix_inputs(x, torch.rand(4), torch.tensor([1, 0, 3, 2]))
    assert mixed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("labels", ["integer", "soft"])
def test_label_dtypes(labels: str) -> None:
    lam, partner = torch.rand(3, dtype=torch.float64), torch.tensor([1, 2, 0])
    if labels == "integer":
        for kind in (torch.int64, torch.int32, torch.uint8):
            y = torch.tensor([0, 1, 2], dtype=kind)
            assert mix_labels(y, lam, partner, 3).dtype == torch.float64
    else:
        y = torch.softmax(torch.randn(3, 4), 1)
        assert mix_labels(y, lam, partner, 4).dtype == torch.float32


def test_cross_entropy_is_torchs() -> None:
    logits = 5 * torch.randn(7, 4, dtype=torch.float64)
    y = torch.randint(4, (7,))
    soft = torch.softmax(torch.randn(7, 4, dtype=torch.float64), 1)
    for target in (y, y.int(), soft):
        truth = F.cross_entropy(logits, target if target is soft else target.long())
        torch.testing.assert_close(soft_cross_entropy(logits, target), truth, rtol=1e-14, atol=0)
    one_hot = F.one_hot(y, 4).double()
    torch.testing.assert_close(soft_cross_entropy(logits, one_hot), F.cross_entropy(logits, y))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_beta_has_the_moments_of_beta(alpha: float) -> None:
    n = 40_000
    draws = draw_beta(n, alpha, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    variance = 1 / (4 * (2 * alpha + 1))
    assert draws.shape == (n,)
    assert float(draws.min()) >= 0
    assert float(draws.max()) <= 1
    assert float(draws.mean()) == pytest.approx(0.5, abs=5 * math.sqrt(variance / n))
    assert float(draws.var()) == pytest.approx(variance, rel=0.03)
    # The fourth central moment, 3/(16(2α+1)(2α+3)), tells Beta from others of that variance.
    fourth = 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))
    assert float(((draws - 0.5) ** 4).mean()) == pytest.approx(fourth, rel=0.05)


@pytest.mark.parametrize("alpha", [1e-5, 1e-300, 1e300])
def test_extreme_alpha_stays_within_the_interval(alpha: float) -> None:
    draws = draw_beta(200, alpha)
    assert bool(((draws >= 0) & (draws <= 1)).all())
    assert set(draws.tolist()) == ({0.5} if alpha > 1 else {0.0, 1.0})


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"must be positive and finite.*NoMix"):
        draw_beta(3, alpha)


def test_beta_advances_the_stream_by_one_integer() -> None:
    for n, alpha, dtype in [(1, 0.5, torch.float32), (1000, 8.0, torch.float64)]:
        drawn = torch.Generator().manual_seed(5)
        by_hand = torch.Generator().manual_seed(5)
        assert draw_beta(n, alpha, generator=drawn, dtype=dtype).dtype == dtype
        torch.randint(2**63 - 1, (), generator=by_hand)
        assert torch.equal(drawn.get_state(), by_hand.get_state())
    before = torch.get_rng_state()
    draw_beta(3, 1.0, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)
    draw_beta(3, 1.0)
    assert not torch.equal(torch.get_rng_state(), before)


def test_partners_are_permutations_all_equally_likely() -> None:
    g = torch.Generator().manual_seed(4)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(1200):
        key = tuple(draw_partners(3, generator=g).tolist())
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 6
    assert all(sorted(key) == [0, 1, 2] for key in counts)
    assert sum((c - 200) ** 2 / 200 for c in counts.values()) < 20.5  # χ²(5), p = 0.001
    assert draw_partners(3).dtype == torch.int64


def test_labels_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\], got 3 at index 1"):
        soft_labels(torch.tensor([0, 3]), 3)
    with pytest.raises(ValueError, match=r"got -1 at index 0; give a loss that ignores such"):
        soft_labels(torch.tensor([-1, 3]), 3)
    with pytest.raises(ValueError, match=r"shape \[B, 3\] to match.*got \[2, 4\]"):
        soft_labels(torch.rand(2, 4), 3)
    assert soft_labels(torch.tensor([2, 0]), 3).tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2).long(), "must be floating point"),
        (torch.zeros(3), torch.zeros(3).long(), r"shape \[n, ...\].*got \[3\]"),
        (torch.zeros(0, 3), torch.zeros(0).long(), r"n >= 1, got \[0, 3\]"),
        (torch.zeros(2, 3), torch.zeros(3).long(), r"labels must be integers \[2\].*int64 \[3\]"),
        (torch.zeros(2, 3), torch.zeros(2), r"or soft labels \[2, C\], got torch.float32 \[2\]"),
        (torch.zeros(2, 3), torch.zeros(2, 1).long(), r"int64 \[2, 1\]"),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.bool), "torch.bool"),
    ],
)
def test_batches_that_cannot_be_mixed_are_refused(
    x: torch.Tensor, y: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_batch((x, y), "training")


def test_lam_is_checked() -> None:
    check_lam(torch.tensor([0.0, 1.0]), 2)
    for lam, message in [
        (torch.tensor([0.5, 1.3]), r"lam must lie in \[0, 1\], got 1.29.* at index 1"),
        (torch.tensor([-0.1, 0.3]), "got -0.1.* at index 0"),
        (torch.tensor([0.1, float("nan")]), "got nan at index 1"),
        (torch.tensor([0.1]), r"shape \[2\], got torch.float32 \[1\]"),
        (torch.tensor([0, 1]), "floating.*int64"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_lam(lam, 2)


def test_partner_is_checked() -> None:
    check_partner(torch.tensor([1, 1]), 2)
    check_partner(torch.tensor([1, 0], dtype=torch.int32), 2)
    for partner, message in [
        (torch.tensor([0, 2]), r"partner must lie in \[0, 1\], got 2 at index 1"),
        (torch.tensor([-1, 0]), "got -1 at index 0"),
        (torch.tensor([0.0, 1.0]), "must be an integer tensor"),
        (torch.tensor([0]), r"shape \[2\]"),
        # A mask would select, not pair.
        (torch.tensor([True, False]), "torch.bool"),
        (torch.tensor([1, 0], dtype=torch.uint8), "torch.uint8"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_partner(partner, 2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16])
def test_labels_of_a_small_type_may_be_of_more_classes_than_it_holds(dtype: torch.dtype) -> None:
    y = torch.tensor([0, 120, 7])
    assert torch.equal(
        mix_labels(y.to(dtype), torch.ones(3), torch.arange(3), 1000),
        mix_labels(y, torch.ones(3), torch.arange(3), 1000),
    )


@pytest.mark.parametrize("shape", [(4, 1), (4, 4), (1, 3)], ids=str)
def test_soft_labels_are_not_stretched_over_the_logits(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"soft labels must have shape \[4, 3\]"):
        soft_cross_entropy(torch.randn(4, 3), torch.zeros(shape))
