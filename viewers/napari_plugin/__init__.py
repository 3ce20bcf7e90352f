"""What napari calls: reader, sample slides, docks; `napari.yaml` beside this file names them."""

import ctypes
import sys

NONE_REFERENCES = 1 << 40


def hold_none() -> None:
    """Keep `None` alive under a Qt binding that lets go of it.

    Before Python 3.12 `None` counts its references, and PySide6 6.12.0 takes one away with every
    call that returns nothing (``setText``, ``update``, all of a painter's): measured, 1000 for
    1000 calls; 6.10.2 takes none. At 0, after minutes of browsing, Python aborts and takes the
    window along. Any number too many does no harm.
    """
    if sys.version_info < (3, 12) and sys.getrefcount(None) < NONE_REFERENCES // 2:
        ctypes.c_ssize_t.from_address(id(None)).value += NONE_REFERENCES


hold_none()
