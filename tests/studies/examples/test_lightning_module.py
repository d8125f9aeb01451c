"""The Lightning example as a user runs it, small."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import core

if TYPE_CHECKING:
    import lightning as L
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.plugins import MixedPrecision

    from studies.examples import lightning_module as example

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

BATCHES = math.ceil(1000 / 64)


@pytest.fixture(autouse=True, scope="module")
def _imported() -> None:
    """Lightning takes seconds to import, in each process that collects these tests."""
    global L, ModelCheckpoint, MixedPrecision, example
    from studies.examples import lightning_module as example  # before Lightning: see its imports

    import lightning as L  # isort: skip
    from lightning.pytorch.callbacks import ModelCheckpoint  # isort: skip
    from lightning.pytorch.plugins import MixedPrecision  # isort: skip


def fit(module: L.LightningModule, *, epochs: int = 1, resume: Any = None, **kw: Any) -> L.Trainer:
    """Returns a Trainer that writes nothing unless told to, after its fit."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": "callbacks" in kw}
    trainer = L.Trainer(accelerator="cpu", devices=1, max_epochs=epochs, **{**quiet, **kw})
    trainer.fit(module, example.Digits(), ckpt_path=resume)
    return trainer


def seeded(kind: type[example.MetaMixUp] | None = None) -> example.MetaMixUp:
    torch.manual_seed(0)
    return (kind or example.MetaMixUp)()


def error_of(state: dict[str, Tensor], part: int) -> float:
    """Returns the percentage that the network with these weights gets wrong, computed without
    Lightning."""
    net = example.MetaMixUp().net
    net.load_state_dict({name.removeprefix("net."): value for name, value in state.items()})
    digits = example.Digits()
    digits.setup("fit")
    images = digits.parts[part]
    with torch.inference_mode():
        wrong = [int(net.eval()(x[None]).argmax()) != int(y) for x, y in images]
    return 100 * sum(wrong) / len(wrong)


def test_it_prints_what_it_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = example.main(["--epochs", "4", "--output", str(tmp_path)])
    printed = capsys.readouterr()
    assert not printed.err
    steps, validated, tested = printed.out.splitlines()
    assert steps == f"optimizer steps: {4 * BATCHES}"
    assert trainer.global_step == 4 * BATCHES
    (file,) = tmp_path.rglob("*.ckpt")
    saved = torch.load(file, weights_only=True)
    assert saved["global_step"] == (saved["epoch"] + 1) * BATCHES
    assert f"step={saved['global_step']}.ckpt" in file.name
    for line, part in ((validated, 2), (tested, 3)):
        (value,) = re.findall(r"([\d.]+) %", line)
        assert float(value) == pytest.approx(error_of(saved["state_dict"], part), abs=0.01)
        assert float(value) < 20  # chance is 90


def test_bf16_reaches_the_virtual_passes_too(tmp_path: Path) -> None:
    module = seeded()
    dtypes: list[torch.dtype] = []
    module.net[0].register_forward_hook(lambda _, __, out: dtypes.append(out.dtype))
    fit(module, epochs=2, precision="bf16-mixed", num_sanity_val_steps=0, limit_val_batches=0)
    assert dtypes == [torch.bfloat16] * (2 * BATCHES * 3)  # virtual, validation, real
    assert all(p.dtype == torch.float32 for p in module.parameters())
    assert error_of(module.state_dict(), 2) < 50


def test_a_loss_scale_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    scales, learned = [], []
    learn = core.learn_interpolation

    def spied(*args: Any, **kw: Any) -> core.Interpolation:
        scales.append(kw["scale"])
        learned.append(learn(*args, **kw))
        return learned[-1]

    monkeypatch.setattr(core, "learn_interpolation", spied)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**9)
    module = seeded()
    trainer = fit(module, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert scales == [2.0**9] * BATCHES
    assert trainer.global_step == BATCHES
    assert all(float((i.lam - i.lam_init).abs().mean()) > 0.05 for i in learned)
    assert error_of(module.state_dict(), 2) < 60


def test_the_whole_step_is_the_same_and_a_bare_optimizer_is_not_counted() -> None:
    class WithTheWholeStep(example.MetaMixUp):
        """`metamixup_step` with the optimizer that Lightning hands out."""

        def training_step(self, batch: Any, batch_idx: int) -> None:
            core.metamixup_step(self.net, self.optimizers(), batch["train"], batch["meta"])
            self.lr_schedulers().step()

    class WithTheBareOptimizer(example.MetaMixUp):
        """The same with torch's own optimizer, which Lightning does not see stepping."""

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers(use_pl_optimizer=False)
            core.metamixup_step(self.net, optimizer, batch["train"], batch["meta"])
            self.lr_schedulers().step()

    weights, steps = [], []
    for kind in (example.MetaMixUp, WithTheWholeStep, WithTheBareOptimizer):
        module = seeded(kind)
        start = {name: value.clone() for name, value in module.state_dict().items()}
        torch.manual_seed(1)
        steps.append(fit(module).global_step)
        weights.append(module.state_dict())
        assert not torch.equal(start["net.8.weight"], weights[-1]["net.8.weight"])
    assert steps == [BATCHES, BATCHES, 0]
    for other in weights[1:]:
        for name, value in weights[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path")
def test_a_resumed_training_counts_on(tmp_path: Path) -> None:
    keep_all = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    whole = fit(seeded(), epochs=3, callbacks=[keep_all])
    module = example.MetaMixUp()
    resumed = fit(module, epochs=3, resume=tmp_path / "epoch=0.ckpt")
    assert resumed.global_step == whole.global_step == 3 * BATCHES
    assert resumed.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    statistics = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)["state_dict"]
    counted = module.state_dict()["net.1.num_batches_tracked"]
    assert int(statistics["net.1.num_batches_tracked"]) == BATCHES  # not the virtual passes
    assert int(counted) == 3 * BATCHES


def test_what_teaches_lambda_chooses_no_checkpoint(
    names_of: Callable[[Tensor], set[int]],
) -> None:
    digits = example.Digits()
    digits.setup("fit")
    seen: dict[str, set[int]] = {"train": set(), "meta": set()}
    batches = 0
    for batch, _, _ in digits.train_dataloader():
        batches += 1
        for name, (x, _) in batch.items():
            seen[name] |= names_of(x)
    for name, loader in (("val", digits.val_dataloader()), ("test", digits.test_dataloader())):
        seen[name] = set().union(*(names_of(x) for x, _ in loader))
    assert batches == BATCHES
    assert [len(images) for images in seen.values()] == [1000, 200, 297, 300]
    assert len(set().union(*seen.values())) == 1797
