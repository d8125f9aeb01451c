"""`import torchvision` that also works where its compiled operators cannot be loaded.

torchvision's wheel on PyPI is linked against the CUDA build of torch. Beside a CPU-only torch its
shared library `_C` does not load, so the operators `torchvision::nms` and `torchvision::qnms` are
never declared, and the import dies with `operator torchvision::nms does not exist`, although data
sets, transforms and models need neither. Declaring the missing operators' schemas first (no
kernels: calling them still fails, as it should) lets the import go through.

Where torchvision loads its library by itself, nothing is declared. Import it from here, and where
only some paths need it import it inside them, for it takes about a second:

    from core.data.torchvision_compat import torchvision
"""

from __future__ import annotations

import importlib.machinery
import importlib.util

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _load_compiled_operators() -> None:
    """Load torchvision's `_C` as torchvision itself will, or leave it when it cannot be loaded."""
    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        return
    loader = importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES
    finder = importlib.machinery.FileFinder(package.submodule_search_locations[0], loader)
    library = finder.find_spec("_C")
    if library is None or library.origin is None:
        return
    try:
        torch.ops.load_library(library.origin)
    except OSError:
        return


def _declare_missing_operators() -> torch.library.Library | None:
    """Declare what `_C` would have declared.

    Returns the library that holds the declarations (they vanish with it), None when nothing was
    missing.
    """
    _load_compiled_operators()
    missing = [name for name in _SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if not missing:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in missing:
        library.define(name + _SCHEMAS[name])
    return library


_declarations = _declare_missing_operators()

import torchvision  # noqa: E402

__all__ = ["torchvision"]
