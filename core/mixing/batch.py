"""This module pairs and mixes inputs and labels, with the loss on mixed labels (Eqs. 1 and 4).

Shapes here and in the rest of `core`: B batch, M meta-validation batch, C classes, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

from core.lazy import functional as F
from core.lazy import numpy as np
from core.lazy import torch
from core.random_streams import stream_device

if TYPE_CHECKING:
    from torch import Tensor

Batch: TypeAlias = "tuple[Tensor, Tensor]"
"""(x [B, ...] floating, y [B] integer class indices or [B, C] floating soft labels)."""

Loss: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
"""loss(logits [B, C], target [B] or [B, C]) -> scalar, the mean over the batch."""

Call: TypeAlias = "Callable[[Tensor], Tensor]"
"""Runs a network on an input [B, ...], plainly or by `functional_call`."""


def draw_partners(
    n: int, *, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Draws a random permutation of the batch, as MixUp pairs it: [n], int64, on `device`.

    Drawn on the generator's own device, so that a CPU generator gives the same pairs everywhere.

    Examples:
        >>> import core
        >>> sorted(core.draw_partners(4).tolist())
        [0, 1, 2, 3]
    """
    order = torch.randperm(n, generator=generator, device=stream_device(generator))
    return order.to(device)


def draw_beta(
    n: int,
    alpha: float,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draws n independent numbers of Beta(alpha, alpha): [n], dtype (None: float32), on `device`.

    The stream advances by one integer whatever n and alpha are: `torch.distributions.Beta` takes no
    generator, so the integer seeds NumPy's.

    Raises:
        ValueError: alpha is not a positive finite number.

    Examples:
        >>> import core
        >>> core.draw_beta(5, alpha=0.2).shape
        torch.Size([5])
    """
    check_alpha(alpha)
    seed = torch.randint(2**63 - 1, (), generator=generator, device=stream_device(generator))
    values = np.random.default_rng(int(seed)).beta(alpha, alpha, size=n)
    drawn = torch.from_numpy(values).to(dtype or torch.float32)  # not every device has float64
    return drawn.to(device)


def mix_inputs(x: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
    """Returns `lam_i·x_i + (1 − lam_i)·x_partner_i` (Eq. 4), differentiable in x and lam.

    Args:
        x: [B, ...], floating.
        lam: [B], floating.
        partner: [B], int64, indices into the batch.

    Returns:
        [B, ...], the dtype and memory format of x.

    Raises:
        ValueError: x is not floating.

    Examples:
        >>> import torch, core
        >>> x = torch.tensor([[0.0], [4.0]])
        >>> core.mix_inputs(x, torch.tensor([0.75, 0.5]), torch.tensor([1, 0]))
        tensor([[1.],
                [2.]])
    """
    if not x.is_floating_point():
        raise ValueError(_NOT_FLOATING.format("the", x.dtype))
    weight = lam.to(x.dtype).view(-1, *([1] * (x.dim() - 1)))
    return weight * x + (1 - weight) * x[partner]


def mix_labels(y: Tensor, lam: Tensor, partner: Tensor, num_classes: int) -> Tensor:
    """Returns `lam_i·y_i + (1 − lam_i)·y_partner_i` as soft labels (Eq. 4), differentiable in lam.

    Args:
        y: [B], integer class indices, or [B, C], floating soft labels.
        lam: [B], floating.
        partner: [B], int64.
        num_classes: C.

    Returns:
        [B, C], the dtype of lam (integer y) or of y (soft y).

    Examples:
        >>> import torch, core
        >>> y, lam, partner = torch.tensor([0, 1]), torch.tensor([0.75, 0.5]), torch.tensor([1, 0])
        >>> core.mix_labels(y, lam, partner, num_classes=2)
        tensor([[0.7500, 0.2500],
                [0.5000, 0.5000]])
    """
    one_hot = soft_labels(y, num_classes, dtype=lam.dtype)
    others = one_hot[partner]
    weight = lam.to(one_hot.dtype).unsqueeze(1)
    # A class that neither label has is a constant: a loss of log y, such as KLDivLoss, would give
    # its 0 an infinite slope, and λ a NaN.
    return torch.where((one_hot == 0) & (others == 0), 0, weight * one_hot + (1 - weight) * others)


def soft_labels(y: Tensor, num_classes: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """Returns labels as rows [B, C]: integer ones one-hot, in dtype (None: float32), soft ones as
    they are.

    Raises:
        ValueError: a label lies outside [0, C), or soft labels do not have C columns. (Range is
            checked on the CPU only: elsewhere it would make every step wait for the device.)
    """
    check_labels(y, num_classes)
    if y.is_floating_point():
        return y
    return F.one_hot(y.long(), num_classes).to(dtype or torch.float32)


def check_labels(y: Tensor, num_classes: int) -> None:
    """Raises ValueError as `soft_labels` does."""
    if y.is_floating_point():
        if y.dim() != 2 or y.shape[1] != num_classes:
            raise ValueError(
                f"soft labels must have shape [B, {num_classes}] to match the model's logits, "
                f"got {list(y.shape)}"
            )
    elif y.device.type == "cpu" and y.numel():
        y = y.long()  # a smaller type may not hold C
        outside = (y < 0) | (y >= num_classes)
        if bool(outside.any()):
            at = int(outside.nonzero()[0])
            way_out = (
                "; give a loss that ignores such labels as loss=torch.nn.CrossEntropyLoss(), or in "
                "core.IndexLoss"
            )
            raise ValueError(
                f"labels must lie in [0, {num_classes - 1}], got {int(y[at])} at index {at}"
                + (way_out if int(y[at]) < 0 else "")
            )


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the mean cross-entropy `−(1/B) Σ_i Σ_c y_ic log softmax(f)_ic`, of any labels.

    Written as a product with the log-softmax, so it is twice differentiable in the logits and
    differentiable in the target, on every backend.

    Args:
        logits: [B, C], floating.
        target: [B], integer, or [B, C], floating, rows summing to 1.

    Returns:
        Scalar.

    Raises:
        ValueError: soft labels have another shape than the logits.

    Examples:
        >>> import torch, core
        >>> core.soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]]))
        tensor(0.6931)
    """
    if target.is_floating_point() and target.shape != logits.shape:
        raise ValueError(
            f"soft labels must have shape {list(logits.shape)} to match the model's logits, got "
            f"{list(target.shape)}"
        )
    log_probabilities = F.log_softmax(logits, dim=1)
    if target.is_floating_point():
        return -(target * log_probabilities).sum(dim=1).mean()
    return F.nll_loss(log_probabilities, target.long())


def check_alpha(alpha: float) -> None:
    """Raises ValueError unless alpha is a positive finite number."""
    if not (alpha > 0 and alpha < float("inf")):
        raise ValueError(
            f"alpha of Beta(alpha, alpha) must be positive and finite, got {alpha}; "
            "for training without mixing use the policy NoMix"
        )


_NOT_FLOATING = (
    "{} inputs must be floating point to be mixed, got {}; convert images with .float() and "
    "normalize them first; token ids are mixed where they are embedded, by "
    "mixing=core.HiddenMixing('name of the embedding layer') of a policy that takes a mixing"
)


def check_batch(batch: Batch, name: str, *, tokens: bool = False) -> None:
    """Raises ValueError unless `batch` is (x [n, ...] floating, y [n] or [n, C]) with n ≥ 1.

    Args:
        batch: what is checked.
        name: what the message calls it.
        tokens: x may hold integers, for it is mixed at a hidden layer.

    Examples:
        >>> import torch, core
        >>> core.mixing.check_batch((torch.randn(8, 3), torch.arange(8)), "training")
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        size = f" of {len(batch)}" if isinstance(batch, (tuple, list, dict)) else ""
        raise ValueError(
            f"the {name} batch must be a pair (inputs, labels), got {type(batch).__name__}{size}"
        )
    x, y = batch
    for what, value in (("inputs", x), ("labels", y)):
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{name} {what} must be one tensor, got {type(value).__name__}; a model of several "
                "inputs takes them as one tensor through a small module of your own"
            )
    if not x.is_floating_point() and (not tokens or x.dtype == torch.bool):
        raise ValueError(_NOT_FLOATING.format(name, x.dtype))
    if x.dim() < 2 or x.shape[0] < 1:
        raise ValueError(f"{name} inputs must have shape [n, ...] with n >= 1, got {list(x.shape)}")
    wrong_rank = y.dim() != (2 if y.is_floating_point() else 1)
    if wrong_rank or y.dtype == torch.bool or y.is_complex() or y.shape[0] != x.shape[0]:
        raise ValueError(
            f"{name} labels must be integers [{x.shape[0]}] or soft labels [{x.shape[0]}, C], "
            f"got {y.dtype} {list(y.shape)}; targets of a regression or of one logit are floating "
            f"[{x.shape[0]}, 1]: y[:, None].float()"
        )


def shown(value: Any) -> str:
    """Returns what a message says of a value: dtype and shape of a tensor."""
    return f"{value.dtype} {list(value.shape)}" if torch.is_tensor(value) else repr(value)


def is_number(value: Any) -> bool:
    """Says whether it is one real number, or a tensor of one."""
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, Real)


def copied(batch: Batch) -> Batch:
    """Returns a batch that a model or a loss may write to, as some normalize in place."""
    x, y = batch
    return x.clone(), y.clone()


def check_vector(name: str, value: Any, n: int | None = None, *, floating: bool) -> None:
    """Raises ValueError unless value is a tensor [n], of any length where n is None, floating or
    of indices."""
    kinds = "a floating" if floating else "an integer"
    right = torch.is_tensor(value) and value.dim() == 1 and n in (None, len(value))
    if right and floating:
        right = value.is_floating_point()
    elif right:  # indexing takes bool and uint8 for masks
        right = value.dtype in (torch.int64, torch.int32)
    if not right:
        shape = "B" if n is None else n
        raise ValueError(f"{name} must be {kinds} tensor of shape [{shape}], got {shown(value)}")


def check_lam(lam: Tensor, n: int) -> None:
    """Raises ValueError unless lam is floating, [n] and within [0, 1]."""
    check_vector("lam", lam, n, floating=True)
    outside = ~((lam >= 0) & (lam <= 1))
    if bool(outside.any()):
        at = int(outside.nonzero()[0])
        raise ValueError(f"lam must lie in [0, 1], got {float(lam[at])} at index {at}")


def check_partner(partner: Tensor, n: int) -> None:
    """Raises ValueError unless partner is integer, [n] and within [0, n)."""
    check_vector("partner", partner, n, floating=False)
    outside = (partner < 0) | (partner >= n)
    if bool(outside.any()):
        at = int(outside.nonzero()[0])
        raise ValueError(f"partner must lie in [0, {n - 1}], got {int(partner[at])} at index {at}")
