"""The random streams of one training, one for each purpose."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from core.lazy import numpy as np
from core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("order", "augmentation", "policy", "meta", "unlabelled_order", "unlabelled_augmentation")

LONG_TAIL, LABEL_NOISE, FOLDS, PAIRS, META_NOISE = 101, 102, 103, 104, 105
"""Numbers of the streams that choose the training data, and pairs of it to look at, away from those
of NAMES (1, 2, ...)."""


def derived_generator(seed: int, stream: int) -> torch.Generator:
    """Returns a CPU generator fixed by both numbers (at least 0), independent of those of other
    numbers."""
    word = int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(word >> 1)


def seed_global_streams(seed: int) -> None:
    """Seeds torch's, Python's and NumPy's global streams, from which a user's code draws."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def global_streams() -> dict[str, Any]:
    """Returns where Python's and NumPy's global streams stand, in plain types."""
    state: Any = np.random.get_state()
    name, keys, *more = state
    return {"python": random.getstate(), "numpy": (name, keys.tolist(), *more)}


def set_global_streams(state: Mapping[str, Any]) -> None:
    """Puts them where `global_streams` saw them."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])


class TorchStreams:
    """This is where torch's global streams stood, on the CPU and on the devices of some tensors.

    Args:
        devices: of the tensors; the CPU's stream is kept in any case.
    """

    def __init__(self, devices: Iterable[torch.device]):
        self._states: list[tuple[Callable[[Tensor], object], Tensor]] = [
            (torch.set_rng_state, torch.get_rng_state())
        ]
        for device in sorted({d for d in devices if d.type != "cpu"}, key=str):
            of_kind: Any = getattr(torch, device.type, None)
            if device.type == "mps":  # it is one
                self._states.append((torch.mps.set_rng_state, torch.mps.get_rng_state()))
            elif hasattr(of_kind, "get_rng_state"):
                put = partial(of_kind.set_rng_state, device=device)
                self._states.append((put, of_kind.get_rng_state(device)))

    def put_back(self) -> None:
        """Puts them back."""
        for put, state in self._states:
            put(state)


@contextmanager
def forked(devices: Iterable[torch.device]) -> Iterator[None]:
    """Afterwards torch's global streams are as before, on the CPU and the devices."""
    before = TorchStreams(devices)
    try:
        yield
    finally:
        before.put_back()


@contextmanager
def streams_kept(device: torch.device | str = "cpu") -> Iterator[None]:
    """Afterwards all global streams are as before, torch's on the device and on GPUs in use too."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    before = global_streams()
    try:
        with forked({torch.device(device), *(torch.device("cuda", i) for i in gpus)}):
            yield
    finally:
        set_global_streams(before)


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Inside, a user's code draws by the seed; afterwards it is as after `streams_kept`."""
    with streams_kept(device):
        seed_global_streams(seed)
        yield


@contextmanager
def stream_kept(generator: torch.Generator | None) -> Iterator[None]:
    """Afterwards the stream (None: torch's global ones, the CPU's and those of GPUs in use) is as
    before.

    Raises:
        ValueError: as `stream_device`.
    """
    stream_device(generator)
    if generator is None:
        with streams_kept():
            yield
        return
    before = generator.get_state()
    try:
        yield
    finally:
        generator.set_state(before)


@contextmanager
def unmoved_by_errors(generator: torch.Generator | None) -> Iterator[None]:
    """Where an error ends what is inside, the stream (None: torch's global one) is as before.

    Raises:
        ValueError: as `stream_device`.
    """
    stream_device(generator)
    stream = torch.default_generator if generator is None else generator
    before = stream.get_state()
    try:
        yield
    except BaseException:
        stream.set_state(before)
        raise


class RandomStreams:
    """Independent CPU generators by name: `streams["order"]`.

    They are apart so that a policy that draws more or less changes neither the order of the data
    nor their augmentation: trainings that differ in the policy alone see the same images.

    Args:
        seed: at least 0; fixes every stream.
    """

    def __init__(self, seed: int):
        self._generators = {
            name: derived_generator(seed, stream) for stream, name in enumerate(NAMES, start=1)
        }

    def __getitem__(self, name: str) -> torch.Generator:
        return self._generators[name]

    def state_dict(self) -> dict[str, Tensor]:
        """Returns where each stream stands, for a checkpoint."""
        return {name: g.get_state() for name, g in self._generators.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads what `state_dict` gave; the tensors may lie on any device."""
        for name, g in self._generators.items():
            if name in state:  # a checkpoint may be older than the stream
                g.set_state(state[name].cpu())


def stream_device(generator: torch.Generator | None) -> torch.device:
    """Returns where a generator draws: a CPU generator gives the same numbers everywhere.

    Raises:
        ValueError: it is none, but a seed perhaps.
    """
    if generator is None:
        return torch.device("cpu")
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator must be a torch.Generator, got {generator!r}; of a seed it is "
            "torch.Generator().manual_seed(seed), made once before the loop"
        )
    return generator.device
