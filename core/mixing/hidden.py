"""This module mixes at a hidden layer (Manifold Mixup, Verma et al., ICML 2019)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from core.mixing.batch import Call, mix_inputs
from core.random_streams import stream_device


@dataclass(frozen=True)
class HiddenMixing:
    """The output of a layer is mixed: `lam_i·h_i + (1 − lam_i)·h_partner_i`.

    The layer must run once in each forward pass and return one tensor, batch first. It is reached
    by a forward hook that exists during the call alone, so the call must run the plain module: a
    graph that `torch.compile` made before does not see the hook, and that is refused. Inside an
    activation checkpoint the layer would run again in the backward pass, unmixed: the reentrant
    kind is refused here, the other raises torch's own `CheckpointError` in the backward pass.

    Attributes:
        layers: names of submodules as `model.named_modules()` gives them, one or several. Of
            several one is drawn for each batch, all equally likely, by `torch.randint(n, ())` on
            the generator's own device. "" stands for the network's input, and so does "input"
            where no submodule has that name.
        drawn: the layer of this batch. Left out, it is the only one, or is drawn.

    Raises:
        ValueError: no layer is named, or `drawn` is not one of them.

    Examples:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 3))
        >>> x, lam, partner = torch.randn(2, 2), torch.tensor([0.9, 0.6]), torch.tensor([1, 0])
        >>> mixing = HiddenMixing(("input", "0")).draw(x, None)
        >>> mixing.logits(model, model, x, lam, partner).shape
        torch.Size([2, 3])
    """

    layers: str | tuple[str, ...]
    drawn: str | None = None
    hooks = True

    def __post_init__(self) -> None:
        layers = (self.layers,) if isinstance(self.layers, str) else tuple(self.layers)
        object.__setattr__(self, "layers", layers)
        if not layers:
            raise ValueError("HiddenMixing needs the name of at least one layer, got none")
        if self.drawn is None and len(layers) == 1:
            object.__setattr__(self, "drawn", layers[0])
        elif self.drawn is not None and self.drawn not in layers:
            raise ValueError(f"drawn must be one of the layers {list(layers)}, got {self.drawn!r}")

    def draw(self, x: Tensor, generator: torch.Generator | None) -> HiddenMixing:
        """Returns a copy with the layer drawn, or itself where there is one only or it is given."""
        if self.drawn is not None:
            return self
        device = stream_device(generator)
        at = int(torch.randint(len(self.layers), (), generator=generator, device=device))
        return replace(self, drawn=self.layers[at])

    def logits(
        self, call: Call, model: nn.Module, x: Tensor, lam: Tensor, partner: Tensor
    ) -> Tensor:
        """Runs the network with the layer's output mixed; see `Mixing`.

        Raises:
            ValueError: a layer is unknown or none is drawn; the drawn one runs twice or not at all,
                returns something else than a tensor with the batch first, or runs without gradients
                while the call has them (reentrant activation checkpointing).
        """
        modules = dict(model.named_modules())
        _check_names(self.layers, modules)
        if self.drawn is None:
            raise ValueError(
                f"HiddenMixing has several layers, {list(self.layers)}, and none drawn yet: take "
                "the one of `draw(x, generator)`"
            )
        if self.drawn == "" or self.drawn not in modules:
            return call(mix_inputs(x, lam, partner))
        hook = _Mix(self.drawn, lam, partner)
        handle = modules[self.drawn].register_forward_hook(hook)
        try:
            out = call(x)
        finally:
            handle.remove()
        if hook.runs == 0:
            raise ValueError(
                f"layer {self.drawn!r} did not run in the forward pass, so nothing was mixed; name "
                "a layer whose forward is called, and call the plain module, not a compiled one"
            )
        return out


class _Mix:
    """This forward hook mixes the output of its module."""

    def __init__(self, name: str, lam: Tensor, partner: Tensor) -> None:
        self.name = name
        self.lam = lam
        self.partner = partner
        self.runs = 0
        self.grad_enabled = torch.is_grad_enabled()

    def __call__(self, module: nn.Module, inputs: object, output: object) -> Tensor:
        self.runs += 1
        if self.runs > 1:
            raise ValueError(
                f"layer {self.name!r} runs more than once in a forward pass, so its output would "
                "be mixed more than once; name a layer that runs once"
            )
        if not isinstance(output, Tensor):
            raise self._refusal(type(output).__name__)
        whole = output.dim() >= 1 and output.shape[0] == self.lam.shape[0]
        if not output.is_floating_point() or not whole:
            raise self._refusal(f"{output.dtype} {list(output.shape)}")
        if self.grad_enabled and not torch.is_grad_enabled():
            raise ValueError(
                f"layer {self.name!r} runs without gradients, as inside a reentrant activation "
                "checkpoint, whose second run the mixing would miss; name a layer outside of it"
            )
        return mix_inputs(output, self.lam, self.partner)

    def _refusal(self, got: str) -> ValueError:
        return ValueError(
            f"layer {self.name!r} must return one floating tensor [{self.lam.shape[0]}, ...], "
            f"batch first, to be mixed, got {got}"
        )


def _check_names(layers: tuple[str, ...] | str, modules: dict[str, nn.Module]) -> None:
    for name in layers:
        if name not in modules and name != "input":
            known = [repr(module) for module in modules if module]
            more = f" and {len(known) - 12} more" if len(known) > 12 else ""
            raise ValueError(
                f"the model has no layer {name!r}; it has {', '.join(known[:12])}{more}; 'input' "
                "stands for the network's input"
            )
