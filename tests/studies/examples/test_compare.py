"""Training code of other kinds is compared by the programs of `studies/examples/compare`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pytest


@pytest.mark.parametrize(
    ("name", "needs", "epochs", "functions"),
    [
        ("lightning_trainer", "lightning", 1, ("step 4", "step 0.5")),
        ("hugging_face_loop", "torch", 3, ("mixup", "plain")),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_it_compares_and_reports(
    name: str, needs: str, epochs: int, functions: tuple[str, str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"needs {needs} (pip install '.[examples]')")
    program = importlib.import_module(f"studies.examples.compare.{name}")
    flags = f"--seeds 2 --epochs {epochs} --workers 0 --output {tmp_path}"
    assert program.main(flags.split()) == 0
    values = pd.read_csv(tmp_path / "compare-values.csv")
    assert values["error"].isna().all()
    assert ((values["value"] >= 0) & (values["value"] <= 100)).all()
    trials = [*zip(values["function"], values["seed"], strict=True)]
    assert sorted(trials) == sorted((function, seed) for function in functions for seed in (0, 1))
    means = values.groupby("function")["value"].mean()
    first, second = functions
    assert means[first] != means[second]
    assert f"| {first} − {second} | " in capsys.readouterr().out
