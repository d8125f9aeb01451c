"""Networks of torchvision and of a user's factory: built, given weights, refused in a line."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.data import load_source
from core.policies import AdaMixUpConfig, NoMix
from core.training.checkpoint import checkpoints
from core.training.config import TrainingConfig
from core.training.fit import fit
from core.training.network import build_network, check_network
from tests.support.refusals import refused_in_a_line

MODULE = """
import torch
from torch import nn

def mlp(in_channels, num_classes, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))

def classes_alone(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
def anything(**sizes): return mlp(**sizes)
def nothing(): pass
def normed(): return nn.Sequential(nn.BatchNorm2d(1).eval(), nn.Flatten(), nn.Linear(64, 10)).eval()
def raising(): raise RuntimeError("no licence\\nmore")
def text(): return "resnet"
def frozen(): return mlp(1, 10, 8).requires_grad_(False)
def lazy(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
def flat(): return nn.Sequential(nn.Flatten(0), nn.Linear(256, 10))
def narrow(): return mlp(1, 9, 8)
def wide(): return mlp(3, 10, 8)
def needs(depth): return mlp(1, 10, 8)
def double():
    torch.set_default_dtype(torch.float64)
    return mlp(1, 10, 8)
def meta(): return mlp(1, 10, 8).to("meta")
class Detached(nn.Linear):
    def forward(self, x): return super().forward(x.flatten(1)).detach()
def detached(): return Detached(64, 10)
class Parts(nn.Linear):
    def forward(self, x):
        logits = super().forward(x.flatten(1))
        return logits if self.training else (logits, x)
def parts(): return Parts(64, 10)
class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1).eval().requires_grad_(False)
        self.module = nn.Linear(64, 10)
    def forward(self, x): return self.module(self.norm(x).flatten(1))
number = 3
"""


def config(model: str, **settings: Any) -> TrainingConfig:
    return TrainingConfig(
        "digits", model, NoMix(), train_size=20, meta_size=10, epochs=1, batch_size=10, **settings
    )


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Returns the user's file, in the current folder."""
    (tmp_path / "networks_of_mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("name", ["mlp", "classes_alone", "anything"])
def test_a_factory_is_called_with_what_it_takes(name: str) -> None:
    digits = load_source("digits")
    model = check_network(config(f"networks_of_mine:{name}"), digits)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_factory_trains() -> None:
    assert fit(config("networks_of_mine:mlp"), source=load_source("digits")).parameters == 650


def test_what_a_factory_has_frozen_stays_so(tmp_path: Path) -> None:
    """Also in evaluation mode: running averages of a network before fine-tuning."""
    kept = fit_and_keep(config("networks_of_mine:Frozen", lr=0.1), tmp_path)
    assert kept["norm.running_mean"].tolist() == [0.0]
    assert kept["norm.running_var"].tolist() == [1.0]
    assert kept["norm.num_batches_tracked"] == 0
    normed = fit_and_keep(config("networks_of_mine:normed", lr=0.1), tmp_path / "normed")
    assert normed["0.num_batches_tracked"] == 2


def fit_and_keep(settings: TrainingConfig, place: Path) -> dict[str, Any]:
    """Returns the state of the network after the training."""
    fit(settings, source=load_source("digits"), directory=place)
    [state] = checkpoints(place, torch.device("cpu"))
    return dict(state["model"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("networks_of_mine:nothing", "returned None"),
        ("networks_of_mine:raising", r"raised RuntimeError: no licence; mend"),
        ("networks_of_mine:text", "returned a str; return a torch.nn.Module"),
        ("networks_of_mine:frozen", "has no trainable parameter"),
        ("networks_of_mine:lazy", "has lazy layers"),
        ("networks_of_mine:flat", r"must return logits \[4, 10\] .* got \[10\]"),
        ("networks_of_mine:narrow", r"must return logits \[4, 10\] .* got \[4, 9\]"),
        ("networks_of_mine:wide", r"fails on a batch \[4, 1, 8, 8\]"),
        ("networks_of_mine:needs", "raised TypeError"),
        ("networks_of_mine:double", "changes torch's default dtype"),
        ("networks_of_mine:meta", "was built on meta"),
        ("networks_of_mine:parts", "its mode eval got tuple of 2"),
        ("networks_of_mine:detached", "the meta step fails"),
        ("networks_of_mine:number", "is of type int"),
        ("networks_of_mine:absent", "cannot be imported: AttributeError"),
        ("absent_module:mlp", "cannot be imported: ModuleNotFoundError"),
        ("networks_of_mine:", "names nothing"),
        ("torchvision:resnet17", "unknown model 'torchvision:resnet17'"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_line(name: str, message: str) -> None:
    with refused_in_a_line(message, name):
        check_network(config(name), load_source("digits"))
    assert torch.get_default_dtype() == torch.float32


def test_parts_that_a_policy_needs_are_asked_for() -> None:
    with pytest.raises(ValueError, match="lacks what AdaMixUp needs"):
        check_network(config("networks_of_mine:mlp"), load_source("digits"), [AdaMixUpConfig()])
    with pytest.raises(ValueError, match="width=3 is of the networks"):
        check_network(config("networks_of_mine:mlp", width=3), load_source("digits"))


def test_torchvision_fits_head_and_first_convolution() -> None:
    model = build_network(config("torchvision:squeezenet1_1"), load_source("digits"))
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    assert (first.in_channels, first.stride) == (1, (2, 2))
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 10)


def test_weights_are_loaded_but_for_a_head_of_other_classes(tmp_path: Path) -> None:
    def net(classes: int, hidden: int = 5) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Linear(hidden, classes))

    (tmp_path / "heads_of_mine.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Linear(5, 10))\n"
    )
    digits, file = load_source("digits"), tmp_path / "w.pt"
    tuned = config("heads_of_mine:net", weights=str(file))
    for classes in (3, 10):
        state = net(classes).state_dict()
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, file)
        loaded = build_network(tuned, digits).state_dict()
        assert torch.equal(loaded["1.weight"], state["1.weight"])
        assert torch.equal(loaded["2.weight"], state["2.weight"]) == (classes == 10)
    torch.save(net(10, hidden=6).state_dict() | {"9.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"of another network than Sequential: .* 1 unknown"):
        build_network(tuned, digits)
    own = config("networks_of_mine:Frozen", weights=str(file))
    state = {**build_network(config("networks_of_mine:Frozen"), digits).state_dict()}
    for named in (state, {f"module.{name}": value for name, value in state.items()}):
        torch.save(named, file)
        loaded = build_network(own, digits).state_dict()
        assert torch.equal(loaded["module.weight"], state["module.weight"])
    file.write_text("no weights")
    with pytest.raises(ValueError, match="cannot be read"):
        build_network(tuned, digits)
    for missing in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(ValueError, match=rf"^weights {missing}: there is no such file"):
            build_network(replace(tuned, weights=str(missing)), digits)


@pytest.mark.parametrize(
    ("width", "memory_format", "refused"),
    [(4, "channels_last", True), (8, "channels_last", False), (4, "contiguous", False)],
)
def test_shortcuts_too_narrow_for_channels_last_are_refused(
    width: int, memory_format: Any, refused: bool
) -> None:
    """There torch corrupts the heap in the backward pass, so that nothing may be trained."""
    config = TrainingConfig(
        "digits", "preact_resnet18", NoMix(), width=width, memory_format=memory_format
    )
    expected = refused_in_a_line("layer .* has 4 channels.*memory_format=.contiguous")
    with expected if refused else nullcontext():
        build_network(config, load_source("digits"))
