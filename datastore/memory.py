"""Keeps the memory of one batch for the next one.

A batch of 100 events takes a few MB for some ms.  Left alone, the allocator
gives that back to the kernel, which fills it with zeros before the next batch
gets it, and the garbage collector looks through events by the thousand for
cycles that are in none of them: a fifth of the time of an upload, and a third
of that of a sweep.
"""

import ctypes
import gc

# Of glibc, malloc.h; other libraries have no such call, and need none.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3

_KEPT = 32 * 2**20  # bytes, free at the top of the heap; more is given back
_GROWTH = 4 * 2**20  # bytes that are asked for at a time
_LARGE = 4 * 2**20  # bytes of a block that is given back as soon as it is free

# New containers until the collector looks at them: those of some uploads.
_MANY_OBJECTS = 50_000


def keep_memory() -> None:
    """Let this process keep some MB of memory that is free."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        pass
    else:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_TOP_PAD, _GROWTH)
    # What is there now stays, and need not be looked at.
    gc.freeze()
    gc.set_threshold(_MANY_OBJECTS)
