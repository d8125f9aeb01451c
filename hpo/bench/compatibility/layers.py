"""This module lists layers and operations that people build networks of, [n, 8] → [n, 8] each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

Make = Callable[[], nn.Module]


class Do(nn.Module):
    """This layer applies a function of (x [n, 8], weight) → [n, 8], with a weight of its own."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(*(shape or (8, 8))) / 3)

    def forward(self, x: Tensor) -> Tensor:
        """Returns [n, 8]."""
        return self.function(x, self.weight)


class Recurrent(nn.Module):
    """This layer reads the features as a sequence of four steps by a recurrent layer."""

    def __init__(self, layer: nn.RNNBase, *, packed: bool = False) -> None:
        super().__init__()
        self.layer, self.packed = layer, packed

    def forward(self, x: Tensor) -> Tensor:
        """Returns [n, 8]."""
        steps = x.view(len(x), 4, 2)
        if not self.packed:
            out: Tensor = self.layer(steps)[0][:, -1]
            return out
        lengths = torch.arange(len(x)) % 4 + 1
        sequence = nn.utils.rnn.pack_padded_sequence(steps, lengths, True, enforce_sorted=False)
        padded, _ = nn.utils.rnn.pad_packed_sequence(self.layer(sequence)[0], True)
        return padded.sum(1)


class Embedded(nn.Module):
    """This layer adds an embedding of the sample's place in the batch."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, x: Tensor) -> Tensor:
        """Returns [n, 8]."""
        ids = torch.arange(len(x))
        bags = isinstance(self.embedding, nn.EmbeddingBag)
        return torch.tanh(x + self.embedding(ids[:, None] if bags else ids))


class Hooked(nn.Linear):
    """This layer has a hook on it, whose effect is none."""

    def __init__(self, kind: str) -> None:
        super().__init__(8, 8)
        getattr(self, f"register_{kind}_hook")(lambda *_: None)


class Twice(torch.autograd.Function):
    """This function is a square that is differentiable as often as wanted, in reverse alone."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        """Returns x²."""
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, slope: Tensor) -> Tensor:
        """Returns 2·x·slope."""
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 2 * x * slope


class Once(Twice):
    """This function is a square that is differentiable once."""

    backward = staticmethod(once_differentiable(Twice.backward))  # type: ignore[assignment]


class Both(Twice):
    """This function is a square with a derivative in forward mode too."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        """Returns x²."""
        ctx.save_for_forward(x)
        return Twice.forward(ctx, x)

    @staticmethod
    def jvp(ctx: torch.autograd.function.FunctionCtx, tangent: Tensor) -> Tensor:
        """Returns 2·x·tangent."""
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 2 * x * tangent


class OnceInReverse(Both):
    """This function has a derivative in forward mode, and one in reverse that is not its own."""

    backward = Once.backward  # type: ignore[assignment]


class Detached(Both):
    """This function's derivative in reverse has lost its graph."""

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, slope: Tensor) -> Tensor:
        """Returns 2·x·slope."""
        return Twice.backward(ctx, slope).detach()


class Masked(nn.Linear):
    """This layer drops numbers by a stream of its own."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.stream = torch.Generator().manual_seed(1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns [n, 8]."""
        y = torch.tanh(super().forward(x))
        return y * (torch.rand(y.shape, generator=self.stream) > 0.3)


def images(layer: nn.Module, channels: int = 2) -> nn.Module:
    """Returns the layer at work on images of 8 numbers, brought back to [n, 8]."""
    shape = (channels, 2, 4 // channels)
    return nn.Sequential(nn.Unflatten(1, shape), layer, nn.Flatten(), nn.LazyLinear(8))


def lines(layer: nn.Module) -> nn.Module:
    """Returns the layer at work on two channels of four numbers, brought back to [n, 8]."""
    return nn.Sequential(nn.Unflatten(1, (2, 4)), layer, nn.Flatten(), nn.LazyLinear(8))


def tokens(function: Callable[[Tensor], Tensor]) -> nn.Module:
    """Returns a function at work on four tokens of two heads of width one, brought back."""

    def apply(x: Tensor, weight: Tensor) -> Tensor:
        return function((x @ weight).view(len(x), 2, 2, 2)).flatten(1)

    return Do(apply)


def attention(backend: SDPBackend | None = None, **options: Any) -> nn.Module:
    """Returns attention of the tokens to themselves, forced to one kernel, or free to choose."""

    def attend(q: Tensor) -> Tensor:
        if backend is None:
            return F.scaled_dot_product_attention(q, q, q, **options)
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, q, q, **options)

    return tokens(attend)


def bag(mode: str) -> nn.Module:
    """Returns an embedding of bags of one word."""
    return Embedded(nn.EmbeddingBag(9, 8, mode=mode))


def symmetric(x: Tensor, weight: Tensor) -> Tensor:
    """Returns a positive definite matrix for each sample, [n, 4, 4]."""
    half = (x @ weight).view(len(x), 4, 2)
    return half @ half.mT + torch.arange(1.0, 5.0, dtype=x.dtype).diag()


def grid(mode: str, padding: str = "zeros") -> nn.Module:
    """Returns a spatial transformer: where it samples depends on the weights."""

    def sample(x: Tensor, weight: Tensor) -> Tensor:
        pixels = x.view(len(x), 2, 2, 2)
        places = torch.tanh(x @ weight).view(len(x), 2, 2, 2)
        return F.grid_sample(pixels, places, mode, padding, align_corners=False).flatten(1)

    return Do(sample)


def resize(mode: str) -> nn.Module:
    """Returns an upscaling of small images, and its mean back."""
    corners = None if mode in ("nearest", "area", "nearest-exact") else False

    def scale(x: Tensor, weight: Tensor) -> Tensor:
        big = F.interpolate(
            (x @ weight).view(len(x), 2, 2, 2), (5, 5), mode=mode, align_corners=corners
        )
        return torch.tanh(big).flatten(2)[:, :, ::7].flatten(1)

    return Do(scale)


ACTIVATIONS = (
    "ELU", "Hardshrink", "Hardsigmoid", "Hardtanh", "Hardswish", "LeakyReLU", "LogSigmoid", "PReLU",
    "ReLU", "ReLU6", "RReLU", "SELU", "CELU", "GELU", "Sigmoid", "SiLU", "Mish", "Softplus",
    "Softshrink", "Softsign", "Tanh", "Tanhshrink", "AlphaDropout", "Dropout",
)  # fmt: skip

LAYERS: dict[str, Make] = {
    **{name: getattr(nn, name) for name in ACTIVATIONS},
    "GELU (tanh)": lambda: nn.GELU("tanh"),
    "Softmax": lambda: nn.Softmax(1),
    "LogSoftmax": lambda: nn.LogSoftmax(1),
    "GLU": lambda: nn.Sequential(nn.Linear(8, 16), nn.GLU()),
    "ReLU (in place)": lambda: nn.ReLU(inplace=True),
    "SiLU (in place)": lambda: nn.SiLU(inplace=True),
    "Hardswish (in place)": lambda: nn.Hardswish(inplace=True),
    "Bilinear": lambda: Do(lambda x, w: F.bilinear(x, x, w), 8, 8, 8),
    # Norms
    "BatchNorm1d": lambda: nn.BatchNorm1d(8),
    "BatchNorm2d": lambda: images(nn.BatchNorm2d(2)),
    "InstanceNorm1d": lambda: lines(nn.InstanceNorm1d(2, affine=True)),
    "GroupNorm": lambda: lines(nn.GroupNorm(2, 2)),
    "LayerNorm": lambda: nn.LayerNorm(8),
    "RMSNorm": lambda: nn.RMSNorm(8),
    "LocalResponseNorm": lambda: lines(nn.LocalResponseNorm(2)),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(8, 8)),
    # In training mode it reads its weight under no_grad, which differences see.
    "spectral_norm (evaluation)": lambda: parametrizations.spectral_norm(nn.Linear(8, 8)).eval(),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(8, 8)),
    # Convolutions, pooling, sampling
    "Conv1d": lambda: lines(nn.Conv1d(2, 3, 3, padding=1)),
    "Conv2d": lambda: images(nn.Conv2d(2, 3, 2, padding=1)),
    "Conv2d (depthwise)": lambda: images(nn.Conv2d(2, 4, 2, padding=1, groups=2)),
    "Conv2d (same, circular)": lambda: images(
        nn.Conv2d(2, 3, 2, padding="same", padding_mode="circular")
    ),
    "Conv3d": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2, 2)), nn.Conv3d(1, 8, 2), nn.Flatten()
    ),
    "ConvTranspose2d": lambda: images(nn.ConvTranspose2d(2, 2, 2, stride=2)),
    "MaxPool1d": lambda: lines(nn.MaxPool1d(2)),
    "MaxPool2d": lambda: images(nn.MaxPool2d(2, 1)),
    "AvgPool2d": lambda: images(nn.AvgPool2d(2, 1)),
    "LPPool1d": lambda: nn.Sequential(nn.Softplus(), lines(nn.LPPool1d(2, 2))),
    "AdaptiveMaxPool2d": lambda: images(nn.AdaptiveMaxPool2d(1)),
    "AdaptiveAvgPool2d": lambda: images(nn.AdaptiveAvgPool2d(1)),
    "FractionalMaxPool2d": lambda: images(nn.FractionalMaxPool2d(1, output_size=1)),
    "MaxUnpool1d": lambda: lines(
        Do(lambda x, w: F.max_unpool1d(*F.max_pool1d(x, 2, return_indices=True), [2]), 1)
    ),
    "Unfold": lambda: images(nn.Unfold(2)),
    "PixelShuffle": lambda: nn.Sequential(
        nn.Unflatten(1, (8, 1, 1)), nn.PixelShuffle(2), nn.Flatten()
    ),
    "ReflectionPad1d": lambda: lines(nn.ReflectionPad1d(1)),
    "grid_sample": lambda: grid("bilinear"),
    "grid_sample (bicubic)": lambda: grid("bicubic"),
    "grid_sample (border)": lambda: grid("bilinear", "border"),
    **{f"interpolate ({m})": partial(resize, m) for m in ("bilinear", "bicubic", "area")},
    # Sequences, sets, words
    "RNN": lambda: Recurrent(nn.RNN(2, 8, batch_first=True)),
    "LSTM": lambda: Recurrent(nn.LSTM(2, 8, batch_first=True)),
    "LSTM (2 layers, both ways)": lambda: Recurrent(nn.LSTM(2, 4, 2, True, True, 0.3, True)),
    "LSTM (projection)": lambda: Recurrent(nn.LSTM(2, 9, batch_first=True, proj_size=8)),
    "LSTM (packed)": lambda: Recurrent(nn.LSTM(2, 8, batch_first=True), packed=True),
    "GRU": lambda: Recurrent(nn.GRU(2, 8, batch_first=True)),
    "Embedding": lambda: Embedded(nn.Embedding(9, 8)),
    "Embedding (sparse)": lambda: Embedded(nn.Embedding(9, 8, sparse=True)),
    **{f"EmbeddingBag ({m})": partial(bag, m) for m in ("sum", "mean", "max")},
    "MultiheadAttention": lambda: nn.TransformerEncoderLayer(8, 2, 8, 0.1, batch_first=True),
    "TransformerEncoderLayer": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 4)),
        nn.TransformerEncoderLayer(4, 2, 8, 0.1, batch_first=True),
        nn.Flatten(),
    ),
    "attention": attention,
    "attention (causal)": lambda: attention(is_causal=True),
    "attention (flash alone)": lambda: attention(SDPBackend.FLASH_ATTENTION),
    # Algebra, order, scattering
    **{f"cdist (p = {p})": partial(Do, partial(torch.cdist, p=p)) for p in (1.0, 2.0, 3.0)},
    "svdvals": lambda: Do(lambda x, w: torch.linalg.svdvals(symmetric(x, w)).repeat(1, 2)),
    "eigvalsh": lambda: Do(lambda x, w: torch.linalg.eigvalsh(symmetric(x, w)).repeat(1, 2)),
    "cholesky": lambda: Do(lambda x, w: torch.linalg.cholesky(symmetric(x, w)).flatten(1)[:, :8]),
    "solve": lambda: Do(
        lambda x, w: torch.linalg.solve(symmetric(x, w), x.view(-1, 4, 2)).flatten(1)
    ),
    "matrix_exp": lambda: Do(lambda x, w: torch.matrix_exp(symmetric(x, w) / 9).flatten(1)[:, :8]),
    "logcumsumexp": lambda: Do(lambda x, w: (x @ w).logcumsumexp(1)),
    "cumprod": lambda: Do(lambda x, w: torch.tanh(x @ w).cumprod(1)),
    "sort": lambda: Do(lambda x, w: (x @ w).sort(1).values),
    "topk": lambda: Do(lambda x, w: (x @ w).topk(4).values.repeat(1, 2)),
    "scatter_reduce (amax)": lambda: Do(
        lambda x, w: x.scatter_reduce(1, torch.arange(8).flip(0).expand_as(x), x @ w, "amax")
    ),
    "index_add": lambda: Do(lambda x, w: x.index_add(1, torch.arange(8) % 3, x @ w)),
    "segment_reduce": lambda: Do(
        lambda x, w: torch.segment_reduce(
            x @ w, "sum", lengths=torch.full((len(x), 4), 2), axis=1
        ).repeat(1, 2)
    ),
    "fft": lambda: Do(lambda x, w: torch.fft.fft(x @ w).abs()),
    "lgamma": lambda: Do(lambda x, w: torch.lgamma(1.5 + torch.sigmoid(x @ w))),
    "erfinv": lambda: Do(lambda x, w: torch.erfinv(0.9 * torch.tanh(x @ w))),
    "sparse product": lambda: Do(
        lambda x, w: torch.sparse.mm(torch.eye(8, dtype=x.dtype).to_sparse(), (x @ w).T).T
    ),
    "gumbel_softmax": lambda: Do(lambda x, w: F.gumbel_softmax(x @ w)),
    # What is done around layers
    "checkpoint": lambda: Do(
        lambda x, w: checkpoint(lambda z: torch.tanh(z @ w), x, use_reentrant=False)
    ),
    "forward hook": lambda: Hooked("forward"),
    "backward hook": lambda: Hooked("full_backward"),
    "backward pre-hook": lambda: Hooked("full_backward_pre"),
    "autograd.Function": lambda: Do(lambda x, w: Twice.apply(torch.tanh(x @ w))),
    "autograd.Function (once_differentiable)": lambda: Do(
        lambda x, w: Once.apply(torch.tanh(x @ w))
    ),
    "autograd.Function (jvp)": lambda: Do(lambda x, w: Both.apply(torch.tanh(x @ w))),
    "autograd.Function (jvp, once_differentiable)": lambda: Do(
        lambda x, w: OnceInReverse.apply(torch.tanh(x @ w))
    ),
    "autograd.Function (jvp, detached)": lambda: Do(lambda x, w: Detached.apply(torch.tanh(x @ w))),
    "dropout by a stream of its own": Masked,
    "vmap": lambda: Do(lambda x, w: torch.func.vmap(lambda z: torch.tanh(z @ w))(x)),
    "torch.func.grad": lambda: Do(
        lambda x, w: torch.func.grad(lambda z: torch.tanh(z @ w).sum())(x)
    ),
    "nested tensors": lambda: Do(
        lambda x, w: torch.nested.to_padded_tensor(torch.nested.as_nested_tensor([*(x @ w)]), 0.0)
    ),
}
"""Each makes a layer in training mode. [n, 8] → [n, 8], n ≥ 5, float32; `.double()` serves."""
