"""What napari calls: reader, sample slides, docks; `napari.yaml` beside this file names them."""

import ctypes
import sys

REFERENCES = 1 << 40


def hold_constants() -> None:
    """Keep `None`, `True` and `False` alive under a Qt binding that lets go of them.

    Before Python 3.12 they count their references, and PySide6 6.12.0 takes one away from `None`
    with every call that returns nothing (``setText``, ``update``, all of a painter's) and from
    `True` with every signal: measured, 1000 for 1000 calls; 6.11.3 takes none. At 0, after minutes
    of browsing, Python aborts or crashes and takes the window along. Any number too many does no
    harm.
    """
    if sys.version_info >= (3, 12):
        return
    for constant in (None, True, False):
        if sys.getrefcount(constant) < REFERENCES // 2:
            ctypes.c_ssize_t.from_address(id(constant)).value += REFERENCES


hold_constants()
