"""Names of a user's own objects: found, given arguments, refused in a line."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from core.data import load_source
from core.data.imported import called, given, imported, named_arguments, transform_of
from core.policies import NoMix
from core.training.config import TrainingConfig
from core.training.network import build_network
from hpo.cells.cell import Cell
from tests.support.refusals import refused_in_a_line

MODULE = """
def anything(**arguments): return arguments
def some(size, root="here"): return size, root
def batch(x, factor=1): return factor * x
class Times:
    def __init__(self, factor): self.factor = factor
    def __call__(self, x): return self.factor * x
class Mute: pass
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Returns the user's file, in the current folder."""
    (tmp_path / "named_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ("", {}),
        ("?", {}),
        ("?size=32", {"size": 32}),
        ("?root=/data/a+b&rate=1e-3&flag=True&none=None", {
            "root": "/data/a+b", "rate": 1e-3, "flag": True, "none": None,
        }),
        ("?text='32'&empty=&sizes=(1,2)", {"text": "32", "empty": "", "sizes": (1, 2)}),
        ("?url=http://x?a=1%26b=2", {"url": "http://x?a=1&b=2"}),
    ],
)  # fmt: skip
def test_arguments_stand_in_the_name(written: str, arguments: dict[str, Any]) -> None:
    name = f"named_of_mine:anything{written}"
    assert named_arguments(name) == ("named_of_mine:anything", arguments)
    assert called(name, ours=1) == {"ours": 1, **arguments}


def test_arguments_in_the_name_go_before_those_of_the_bench() -> None:
    assert called("named_of_mine:some?size=3", size=9, root="there", other=1) == (3, "there")
    assert called("named_of_mine:some", size=9) == (9, "here")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("named_of_mine:some?sise=3", "takes no sise; it takes size, root"),
        ("named_of_mine:some?size=3&size=4", "size is given twice"),
        ("named_of_mine:some?size", "'size' is no argument; write named_of_mine:some.size=32"),
        ("named_of_mine:some?root=x", r"some\(root=x\) raised TypeError: .*size"),
        ("given:net", "an object that Python code gave; give it again"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(name: str, message: str) -> None:
    with refused_in_a_line(message):
        called(name)


def test_a_transform_is_a_function_with_its_arguments_or_an_instance_of_a_class() -> None:
    x = torch.ones(2)
    for name in ("batch", "batch?factor=1", "Times?factor=1"):
        assert torch.equal(transform_of(f"named_of_mine:{name}")(x), x)
    assert transform_of("named_of_mine:Times?factor=3")(x).tolist() == [3, 3]
    with pytest.raises(ValueError, match="makes a Mute, which cannot be called"):
        transform_of("named_of_mine:Mute")


def test_objects_have_names_for_a_while() -> None:
    with given({"given:some": functools.partial(dict, a=1)}):
        assert called("given:some?b=2") == {"a": 1, "b": 2}
        with given({"given:some": list}):
            assert imported("given:some") is list
        assert called("given:some") == {"a": 1}
    with pytest.raises(ValueError, match="give it again"):
        imported("given:some")


def test_arguments_reach_networks_and_are_part_of_the_identity() -> None:
    digits = load_source("digits")

    def training(model: str) -> TrainingConfig:
        return TrainingConfig("digits", model, NoMix(), train_size=20, meta_size=10)

    plain = training("torchvision:squeezenet1_1")
    other = training("torchvision:squeezenet1_1?dropout=0.25")
    assert [build_network(t, digits).classifier[0].p for t in (plain, other)] == [0.5, 0.25]
    assert Cell("none", plain).id != Cell("none", other).id
    with pytest.raises(ValueError, match=r"cannot be built .*drop_out"):
        build_network(training("torchvision:squeezenet1_1?drop_out=0.25"), digits)


def test_what_changes_torch_for_everybody_is_refused_and_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "changes_of_mine.py").write_text(
        "import torch\n"
        "def data(): torch.set_default_dtype(torch.float64); return 1\n"
        "def failing(): torch.set_grad_enabled(False); raise OSError('no file')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="changes_of_mine:data changes torch's default dtype"):
        called("changes_of_mine:data")
    with pytest.raises(ValueError, match="raised OSError: no file"):
        called("changes_of_mine:failing")
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
