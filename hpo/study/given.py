"""Objects of the user's own, by names that trainings know them by."""

from __future__ import annotations

import copy
import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from core.data.imported import GIVEN, imported, named_arguments
from core.lazy import torch

if TYPE_CHECKING:
    from torch import nn

    from core.data import Source

OBJECTS = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Given:
    """This is what Python code gives a study beside names.

    Attributes:
        objects: what names that start with "given:" stand for; see `core.data.imported.given`.
        sources: data sets by name.
        digest: of the weights that a model begins with, in 16 hexadecimal digits; "" of none.
    """

    objects: OBJECTS = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)
    digest: str = ""


@dataclass(frozen=True)
class Copies:
    """A module as the factory of its copies, on the CPU."""

    module: nn.Module

    def __call__(self) -> nn.Module:
        """Returns a copy with the module's own weights."""
        return copy.deepcopy(self.module).cpu()


def named_object(role: str, thing: Any, name: str | None) -> tuple[str, OBJECTS]:
    """Returns the name of an object, and what the name stands for where it is no import path.

    A name is that of an import path where the object has one; else `name`, where it is given, and
    the class or function, with a hash of what it looks like where that tells objects apart.

    Args:
        role: what it is: "model", "augment".
        thing: a name, which stays as it is, or a callable.
        name: what the caller calls it.

    Raises:
        ValueError: it cannot be called, or nothing tells it from others.
    """
    if isinstance(thing, str):
        return thing, {}
    if not callable(thing):
        raise ValueError(f"{role} must be a name or something to call, got {type(thing).__name__}")
    path = _path(thing)
    if path is not None:
        return path, {}
    label = "-".join(part for part in (name, _label(thing, name is not None)) if part)
    if not label:
        raise ValueError(
            f"{role} is {_told(thing)}, which nothing tells from another one; give the call a "
            "name=..., and another one whenever it changes, or define it at the top of a module"
        )
    full = f"{GIVEN}{role}.{re.sub(r'[^A-Za-z0-9_.-]+', '_', label)}"
    return full, {
        full: Copies(thing) if role == "model" and isinstance(thing, torch.nn.Module) else thing
    }


def weights_digest(model: nn.Module) -> str:
    """Returns sixteen hexadecimal digits by which a module's weights are recognized."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def _path(thing: Any) -> str | None:
    """Returns the name by which any process imports the object; of a partial with arguments."""
    if isinstance(thing, partial):
        path = None if thing.args else _path(thing.func)
        if path is None:
            return None
        written = "&".join(f"{k}={quote(repr(v), safe=_SAFE)}" for k, v in thing.keywords.items())
        full = f"{path}?{written}"
        return full if named_arguments(full)[1] == thing.keywords else None
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not module or not name or module == "__main__" or "<" in name:
        return None
    path = f"{module}:{name}"
    try:
        return path if imported(path) is thing else None
    except ValueError:
        return None


_SAFE = " /:;,.!*()[]{}'\"=<>@$^|~`-_"


def _label(thing: Any, has_name: bool) -> str | None:
    """Returns what tells the object from others, or None.

    Of a module that `has_name` it leaves out what every process shows otherwise.
    """
    if isinstance(thing, torch.nn.Module):
        looks = repr(thing)
        if has_name:
            looks = re.sub(r" at 0x[0-9a-fA-F]+", "", looks)
        elif " at 0x" in looks:
            return None
        return f"{type(thing).__name__}-{_hash(looks + _attributes(thing))}"
    if inspect.isclass(thing):
        return thing.__name__
    if inspect.isfunction(thing):
        defaults = repr([thing.__defaults__, thing.__kwdefaults__])
        plain = thing.__name__ != "<lambda>" and thing.__closure__ is None
        if not plain or " at 0x" in defaults:
            return None
        return thing.__name__ + ("" if defaults == "[None, None]" else f"-{_hash(defaults)}")
    if isinstance(thing, partial) or " at 0x" in repr(thing):
        return None
    return f"{type(thing).__name__}-{_hash(repr(thing))}"


def _attributes(model: nn.Module) -> str:
    """Returns the numbers, texts and lists that modules of the user's own classes keep beside
    weights."""
    seen = []
    for path, module in model.named_modules():
        if not type(module).__module__.startswith("torch."):
            seen += [
                f"{path}.{name}={value!r}"
                for name, value in vars(module).items()
                if name[0] != "_"
                and name != "training"
                and isinstance(value, _PLAIN)
                and " at 0x" not in repr(value)
            ]
    return "".join(sorted(seen))


_PLAIN = (bool, int, float, str, type(None), tuple, list, dict)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _told(thing: Any) -> str:
    if inspect.isfunction(thing):
        return "a lambda" if thing.__name__ == "<lambda>" else f"{thing.__name__}, with variables"
    return f"a {type(thing).__name__}"
