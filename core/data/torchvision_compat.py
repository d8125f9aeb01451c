"""This module imports torchvision also where its compiled operators cannot be loaded.

torchvision's wheel on PyPI is linked against the CUDA build of torch. Beside a CPU-only torch its
shared library does not load, so the operators `torchvision::nms` and `torchvision::qnms` are never
declared, and the import dies with `operator torchvision::nms does not exist`, although data sets,
transforms and models need neither. After that failure the schemas are declared (no kernels:
calling the operators still fails, as it should) and the import is tried once more.

Where torchvision imports by itself, nothing is declared: an operator that is declared twice ends
the interpreter. Import it from here, and where only some paths need it import it inside them, for
it takes about a second:

    from core.data.torchvision_compat import torchvision
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_declarations: torch.library.Library | None = None
"""Declarations vanish with the library that made them."""


def _imported() -> ModuleType:
    """Returns torchvision, its operators declared if it does not come without."""
    global _declarations
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _declarations = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _declarations.define(name + _ARGUMENTS)
    return importlib.import_module("torchvision")


torchvision = _imported()

__all__ = ["torchvision"]
