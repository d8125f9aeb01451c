"""Memory that a training frees and takes again, by the page faults that the system counts."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from core.data import load_source
from core.policies import Beta
from core.training.config import TrainingConfig
from core.training.fit import fit

faults = []
fit(
    TrainingConfig(
        dataset="digits", model="digits_cnn", train_size=100, meta_size=200, batch_size=50,
        epochs=20, lr=0.05, policy=Beta(1.0),
    ),
    source=load_source("digits"),
    on_epoch=lambda _: faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt),
)
print(faults[-1] - faults[9])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_a_training_takes_the_memory_again_that_it_freed() -> None:
    """As malloc is by default, an epoch took about a thousand page faults; here two."""
    child = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True)
    assert int(child.stdout) < 20 * 100
