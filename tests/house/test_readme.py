"""The README is short, its code runs, and what pages point to is there."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import core
from hpo.report.page import anchor
from studies.__main__ import commands
from tests.support.scripts import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "mlflow/README.md"]
SITE = runpy.run_path(str(ROOT / ".ci/site.py"))
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def loop() -> dict[str, Any]:
    """Returns what a loop has around it."""
    torch.manual_seed(0)
    x, y = torch.randn(8, 1, 4, 4), torch.arange(8) % 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return {
        "core": core,
        "F": F,
        "x": x,
        "y": y,
        "model": model,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.ConstantLR(optimizer),
        "train_loader": [(x, y)],
        "val_batches": islice(cycle([(x, y)]), 5),
        "x_val": x,
        "y_val": y,
    }


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("side", ["left", "right"])
def test_both_loops_run(side: str) -> None:
    """They stand side by side, the second from column 47 on."""
    [both] = [block for block in BLOCKS if "optimizer.zero_grad" in block]
    lines = [line[:47] if side == "left" else line[47:] for line in both.splitlines()]
    given = loop()
    before = given["model"][1].weight.detach().clone()
    exec("\n".join(line.rstrip() for line in lines), given)
    assert not torch.equal(given["model"][1].weight, before)
    assert ("result" in given) == (side == "right")


@pytest.mark.usefixtures("without_ray")
def test_the_other_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = loop()
    given |= {
        "x": torch.randn(60, 1, 4, 4),
        "y": torch.arange(60) % 2,
        "x_test": torch.randn(20, 1, 4, 4),
        "y_test": torch.arange(20) % 2,
        "my_net": small_net,
        "mine": lambda seed, report: float(seed),
        "other": lambda seed, report: float(seed) + 1.0,
    }
    others = [block for block in BLOCKS if "optimizer.zero_grad" not in block]
    assert len(others) == 3
    for block in others:
        exec(block, given)
    printed = capsys.readouterr().out
    assert 'Take engine="auto"' in printed
    assert "Placebo" in printed
    assert "mine" in printed


def test_the_loops_of_the_pages_run() -> None:
    for page in ("your-own-loop.md", "tutorials/label-noise.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        block = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "for x" in b)
        given = loop()
        given["checked_batches"] = given["val_batches"]
        if "for x, y, i" in block:
            x, y = torch.randn(100, 1, 4, 4), torch.arange(100) % 2
            given["train_loader"] = [(x, y, torch.arange(100))]
        before = given["model"][1].weight.detach().clone()
        exec(block, given)
        assert not torch.equal(given["model"][1].weight, before)


def small_net(in_channels: int, num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16 * in_channels, num_classes))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, heading = unquote(link).partition("#")
        if re.match(r"\w+:", link):
            continue
        target = page.parent / name if name else page
        there = target.exists() or os.path.relpath(target, ROOT / "docs") in SITE["pages"]()
        if there and heading:
            headings = re.findall(r"^#+ (.*)", target.read_text("utf-8"), re.MULTILINE)
            there = heading in map(anchor, headings)
        if not there:
            broken.append(link)
    assert not broken


def test_commands_are_there() -> None:
    stated = set(re.findall(r"`?metamixup ([a-z][\w-]*)", README))
    assert {"table2", "open"} <= stated <= set(commands())
    targets = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z]\w*)", README)) - {"works"}:
        assert re.search(rf"^{target}:", targets, re.MULTILINE), target


def test_the_site_has_a_page_for_each_public_name() -> None:
    pages = SITE["pages"]()
    for package in SITE["PACKAGES"]:
        module = importlib.import_module(package)
        for name in module.__all__:
            assert pages[f"reference/{package}.{name}.md"] == f"::: {package}.{name}\n"
            assert f"- [`{name}`]({package}.{name}.md)" in pages[f"reference/{package}.md"]
    menu = (ROOT / "mkdocs.yml").read_text()
    linked = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert linked == set(re.findall(r": ([\w/-]+\.md)$", menu, re.MULTILINE))


@pytest.mark.slow
def test_the_site_is_built_without_a_broken_link(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs MkDocs (make site)")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-d", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    page = (tmp_path / "reference/core.metamixup_step.html").read_text(encoding="utf-8")
    assert "https://fonts" not in page
