"""Errors of a run as a whole; those of one slide come from the packages below."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from tiling.errors import WSIError


class UsageError(WSIError, ValueError):
    """A flag, a configuration key or a manifest is wrong; nothing was started."""


class OutputError(WSIError, OSError):
    """The output folder cannot be written."""


@contextmanager
def as_usage_error() -> Iterator[None]:
    """Turn a plain `ValueError`, raised for a wrong argument, into a `UsageError`."""
    try:
        yield
    except WSIError:
        raise
    except ValueError as err:
        raise UsageError(str(err)) from err


def reason_of(err: Exception) -> str:
    """Return what an error says, and what to do where the error itself cannot know."""
    if isinstance(err, OSError) and err.errno == errno.ENOSPC:
        return f"{err}; free some and run the same command again: what is finished is kept"
    return str(err)
