"""The network of a training: one of ours, one of torchvision's, or what a user's factory makes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.data import Source
from core.data.imported import called, named_arguments
from core.metamixup import metamixup_step
from core.models import MODELS, build_model
from core.models.batchnorm import set_batchnorm
from core.policies import PolicyConfig
from core.training.config import TrainingConfig
from core.training.defaults import torchs_defaults
from core.user_model.logits import described

_TORCHVISION = "torchvision:"


def build_network(config: TrainingConfig, source: Source) -> nn.Module:
    """Returns the network of `config` for images of `source`, freshly initialized, on the CPU.

    Weights come from torch's global random stream, and then from `config.weights` where a file is
    named.

    Raises:
        ValueError: there is no such network, its factory fails, the weights are of another one, or
            it is too narrow for channels_last.
    """
    sizes = {
        "in_channels": source.in_channels,
        "num_classes": source.num_classes,
        "image_size": source.image_size,
    }
    ours = ":" not in config.model
    if (ours or config.model.startswith(_TORCHVISION)) and len(source.shape) != 3:
        raise ValueError(
            f"model {config.model} is for images, and an item of {source.name} is "
            f"{list(source.shape)}; give a network of your own: --model package.module:factory"
        )
    if ours:
        model: nn.Module = build_model(config.model, width=config.width, **sizes)
    elif config.width is not None:
        raise ValueError(
            f"width={config.width} is of the networks {', '.join(MODELS)}; leave it out with "
            f"model {config.model}"
        )
    elif config.model.startswith(_TORCHVISION):
        model = _of_torchvision(config.model, **sizes)
    else:
        model = called(config.model, **sizes)
        _check_module(config.model, model)
    if config.weights is not None:
        load_weights(model, Path(config.weights))
    set_batchnorm(model, config.batchnorm_momentum, config.batchnorm_eps)
    if config.memory_format == "channels_last":
        _check_channels(config.model, model)
    return model


def _check_channels(name: str, model: nn.Module) -> None:
    """Refuses what makes torch (2.13, on a CPU) write beyond its memory in the backward pass: 1×1
    convolutions with a stride, of 2 to 6 channels, in channels_last."""
    for layer, module in model.named_modules():
        strided = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) != module.stride
        if strided and 2 <= module.in_channels <= 6:
            raise ValueError(
                f"model {name}: layer {layer} has {module.in_channels} channels, too few for "
                "torch's 1×1 convolutions with a stride in channels_last, which then corrupt "
                'memory; choose a larger width or memory_format="contiguous"'
            )


def check_network(
    config: TrainingConfig, source: Source, policies: Iterable[PolicyConfig] = ()
) -> nn.Module:
    """Returns the network; one that is not ours has gone forward and taken one meta step.

    `policies` are those that it is to be trained with.

    torch's global random stream is as before afterwards.

    Raises:
        ValueError: the network cannot be trained here; the line names it and the way out.
    """
    with torchs_defaults():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build_network(config, source)
        if ":" in config.model:
            _check_parts(config, model, policies)
            check_passes(config.model, model, source)
            _check_meta_step(config.model, model, source)
    return model


def _check_parts(
    config: TrainingConfig, model: nn.Module, policies: Iterable[PolicyConfig]
) -> None:
    parts = hasattr(model, "features") and isinstance(getattr(model, "classifier", None), nn.Linear)
    if not parts and any(policy.kind.startswith("adamixup") for policy in policies):
        raise ValueError(
            f"model {config.model} lacks what AdaMixUp needs: features(x) [n, D] and a last layer "
            "`classifier`, a torch.nn.Linear; add both, or leave that row out by --rows"
        )
    if config.analysis is not None:
        raise ValueError(
            f"model {config.model} shows no features to an analysis; leave analysis out, or choose "
            f"{', '.join(MODELS)}"
        )


def check_passes(name: str, model: nn.Module, source: Source) -> None:
    """Raises ValueError unless the model gives [n, C] for items of the source, in both modes.

    It is in training mode afterwards, and its running statistics have moved.
    """
    classes = source.num_classes
    shape = (4, *source.shape)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    way_out = f"items here are {list(shape[1:])}; mend the model, or its sizes"
    with torch.random.fork_rng(devices=[]):
        for mode in ("eval", "train"):
            try:
                with torch.set_grad_enabled(mode == "train"):
                    output = model.train(mode == "train")(x)
            except Exception as error:
                raise ValueError(
                    f"model {name}, in its mode {mode}, fails on a batch {list(shape)}: "
                    f"{_line(error)}; {way_out}"
                ) from error
            if not isinstance(output, Tensor) or output.shape != (4, classes):
                raise ValueError(
                    f"model {name} must return logits [4, {classes}] of a batch {list(shape)}, in "
                    f"its mode {mode} got {described(output)}; have its forward return one tensor "
                    "[n, classes]"
                )


def _check_meta_step(name: str, model: nn.Module, source: Source) -> None:
    """Raises ValueError unless the model takes a meta step."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((4, *source.shape), generator=generator)
    y = torch.arange(4) % source.num_classes
    with torch.random.fork_rng(devices=[]):
        try:
            optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
            metamixup_step(model, optimizer, (x, y), (x, y), generator=generator)
        except Exception as error:
            raise ValueError(
                f"model {name} goes forward, and the meta step fails: {_line(error)}; "
                "`core.examine` says what stands against it"
            ) from error


def _check_module(name: str, model: Any) -> None:
    """Raises ValueError where what a factory returned can be no network of a training."""
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model {name} returned a {type(model).__name__}; return a torch.nn.Module"
        )
    lazy = nn.parameter.UninitializedParameter
    if any(isinstance(p, lazy) for p in model.parameters()):
        raise ValueError(
            f"model {name} has lazy layers; call it once on a batch in the factory, or give sizes"
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            f"model {name} has no trainable parameter; set requires_grad of some of its parameters"
        )
    elsewhere = {str(t.device) for t in (*model.parameters(), *model.buffers())} - {"cpu"}
    if elsewhere:
        raise ValueError(
            f"model {name} was built on {', '.join(sorted(elsewhere))}; build it on the CPU: "
            "--device moves it"
        )


def _of_torchvision(name: str, *, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """Returns a classifier of torchvision, its head and first convolution made for these sizes."""
    from core.data.torchvision_compat import torchvision

    models = torchvision.models
    builder, own = named_arguments(name.removeprefix(_TORCHVISION))
    known = models.list_models(module=models)
    if builder not in known:
        raise ValueError(f"unknown model {name!r}: torchvision has {', '.join(known)}")
    options: dict[str, Any] = {"num_classes": num_classes}
    if builder.startswith("vit_"):
        options["image_size"] = image_size
    if builder.startswith(("googlenet", "inception")):
        options |= {"aux_logits": False, "init_weights": True}
    try:
        model: nn.Module = models.get_model(builder, **{"weights": None, **options, **own})
    except Exception as error:
        raise ValueError(
            f"model {name} cannot be built for images of {image_size} pixels: {_line(error)}; "
            "choose another, or another --image-size"
        ) from error
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            if layer.in_channels != in_channels:
                parent, _, last = path.rpartition(".")
                setattr(model.get_submodule(parent), last, _with_channels(layer, in_channels))
            break
    return model


def _with_channels(layer: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        dilation=layer.dilation,  # type: ignore[arg-type]
        bias=layer.bias is not None,
    )


def load_weights(model: nn.Module, file: Path) -> None:
    """Loads a state dict for fine-tuning, in place; a first or last layer of another shape is kept.

    Raises:
        ValueError: the file is missing, holds no state dict, or that of another network.
    """
    if not file.expanduser().is_file():
        raise ValueError(
            f"weights {file}: there is no such file; give one that "
            "torch.save(model.state_dict(), FILE) wrote, or leave --weights out"
        )
    try:
        state = torch.load(file.expanduser(), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"weights {file} cannot be read: {_line(error)}; give a file that "
            "torch.save(model.state_dict(), FILE) wrote"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"weights {file} is no state dict; save it by torch.save(m.state_dict())")
    own = model.state_dict()
    if own.keys() != state.keys():  # of a DataParallel, unless the model has such a name itself
        state = {name.removeprefix("module."): value for name, value in state.items()}
    layers = [
        path
        for path, layer in model.named_modules()
        if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd))
    ]
    ends = {f"{path}.{kind}" for path in {*layers[:1], *layers[-1:]} for kind in ("weight", "bias")}
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    other = [n for n in own.keys() & state.keys() if own[n].shape != state[n].shape]
    wrong = [*missing, *unknown, *sorted(n for n in other if n not in ends)]
    if wrong:
        raise ValueError(
            f"weights {file} are of another network than {type(model).__name__}: {len(missing)} "
            f"tensors are missing, {len(unknown)} unknown, the first wrong one is {wrong[0]}; give "
            "the file of this --model"
        )
    model.load_state_dict({**state, **{name: own[name] for name in other}})


def _line(error: BaseException) -> str:
    text = next(iter(str(error).strip().splitlines()), "no message")
    return f"{type(error).__name__}: {text}"
