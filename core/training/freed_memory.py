"""Memory that a training on the CPU frees stays with its process, for the next step."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT, _LARGEST = 2**30, 2**25  # bytes


@cache
def keep_freed_memory() -> None:
    """Has glibc's malloc keep up to 1 GiB of what is freed, in this process from now on.

    By default it gives activations back to the system after each pass, and their pages come back
    one fault at a time: of an epoch of small networks that was a fifth. Other allocators stay as
    they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
    mallopt(_TRIM_THRESHOLD, _KEPT)
    mallopt(_MMAP_THRESHOLD, _LARGEST)
