from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.meta.engines import ENGINES
from hpo.bench.cost import run
from hpo.bench.cost.command_line import cores, parse
from hpo.bench.cost.contenders import contenders
from hpo.bench.cost.presets import GROWTH, cases
from hpo.bench.cost.run import plan


def test_by_default_the_table_is_measured_with_all_but_the_slow_on_all_cores(
    tmp_path: Path,
) -> None:
    options = parse("", ["--output", str(tmp_path)])
    table = [
        (c.part, c.model, c.image_size, c.channels, c.batch_size, c.meta_batch_size)
        for c in options.cases
    ]
    assert table == [
        ("main", "cnn", 28, 1, 128, 100),
        ("main", "preact_resnet18", 32, 3, 64, 64),
        ("fit", "cnn", 14, 1, 64, 64),
        ("fit", "preact_resnet18", 32, 3, 64, 64),
    ]
    names = [c.name for c in options.contenders]
    assert names[:2] == ["vanilla", "auto"]
    assert {*ENGINES, "higher", "torchopt", "betty", "learn2learn"} - {"compiled"} < {*names}
    everybody = {c.name for c in contenders()}
    slow = {"compiled", "validation_gradient_every_4", "amortised_16"}
    assert everybody - {*names} == slow
    assert {c.name for c in parse("", ["--preset", "paper"]).contenders} == everybody
    assert "compiled" not in {c.name for c in parse("", ["--preset", "smoke"]).contenders}
    asked = parse("", ["--preset", "smoke", "--contenders", "unroll"])
    assert [c.name for c in asked.contenders] == ["vanilla", "unroll"]
    assert options.setting.threads == cores() >= 1
    assert (options.setting.autocast, options.setting.channels_last) == (None, False)


def test_the_paper_preset_on_a_gpu_is_bf16_and_channels_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    options = parse("", ["--preset", "paper", "--device", "cuda"])
    assert options.setting.variant == "cuda-bf16-channels_last"
    main = [(c.model, c.batch_size) for c in options.cases if c.part == "main"]
    assert main == [(m, n) for m in ("preact_resnet18", "wrn_28_10") for n in (128, 512)]
    plain = parse(
        "", ["--preset", "paper", "--device", "cuda", "--autocast", "off", "--no-channels-last"]
    )
    assert plain.setting.variant == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device here; use --device cpu"):
        parse("", ["--device", "cuda"])


def test_growth_covers_batch_and_depth_with_few_rounds_and_contenders() -> None:
    options = parse("", ["--preset", "paper", "--repeats", "12"])
    planned = plan(options)
    growth = [p for p in planned if p.case.part in ("batch", "depth")]
    sizes = {p.case.batch_size for p in growth if p.case.part == "batch"}
    assert sizes == {16, 32, 64, 128, 256, 512}
    models = {p.case.model for p in growth if p.case.part == "depth"}
    assert models == {"preact_resnet18", "preact_resnet34"}
    assert all(p.setting.repeats == 4 and p.case.train_steps == 0 for p in growth)
    assert {c.name for p in growth for c in p.contenders} <= {"vanilla", *GROWTH}
    assert {p.setting.repeats for p in planned if p.case.part == "main"} == {12}
    assert len({p.id for p in planned}) == len(planned)


def test_models_are_chosen_and_others_added() -> None:
    assert [c.part for c in cases("quick", "cpu", ["cnn"])] == ["main", "fit"]
    assert [c.part for c in cases("quick", "cpu", ["cnn"], fits=False)] == ["main"]
    for flags, parts in (
        ((), {"main", "fit"}),
        (("--contenders", "auto"), {"main"}),
        (("--contenders", "auto,fit"), {"main", "fit"}),
        (("--contenders", "fit"), {"fit"}),
    ):
        assert {c.part for c in parse("", flags).cases} == parts
    (added,) = cases("quick", "cpu", ["wrn_28_2"])
    assert (added.model, added.batch_size, added.image_size) == ("wrn_28_2", 64, 32)
    with pytest.raises(ValueError, match="unknown model 'lenet'"):
        cases("quick", "cpu", ["lenet"])


def test_code_of_before_is_told_apart_by_what_it_says(tmp_path: Path) -> None:
    """Two commits may lie in folders of one name, one after the other."""
    tree = tmp_path / "before"
    (tree / "core" / "training").mkdir(parents=True)
    code = tree / "core" / "training" / "training.py"
    flags = ["--preset", "smoke", "--contenders", "fit", "--before", str(tree)]
    ids = []
    for text in ("one = 1\n", "two = 2\n", "one = 1\n"):
        code.write_text(text)
        ids.append([part.id for part in run.plan(parse("", flags))])
    assert ids[0] == ids[2]
    assert not set(ids[0]) & set(ids[1])


def test_a_choice_that_measures_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--preset", "smoke", "--models", ",", "--output", str(tmp_path)]
    assert run.run_cost("", flags) == run.UNUSABLE
    assert "smoke measures none of the models chosen" in capsys.readouterr().err


@pytest.mark.parametrize(("fresh", "early"), [(True, True), (True, False), (False, True)])
def test_an_interrupt_says_how_to_go_on(
    fresh: bool,
    early: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without --fresh only once what was measured before is set aside."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "load_source" if early else "StudyTracker", interrupt)
    flags = ["--preset", "smoke", "--output", str(tmp_path), *["--fresh"] * fresh]
    assert run.run_cost("", flags) == run.INTERRUPTED
    said = capsys.readouterr().err
    assert "interrupted" in said
    assert "run the same command again" in said
    assert ("without --fresh, to go on: measured groups" in said) == (not (fresh and early))
