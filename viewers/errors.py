"""Errors of viewers."""

from tiling.errors import WSIError


class ViewerError(WSIError, RuntimeError):
    """The viewer cannot be started."""


class ReviewError(WSIError, OSError):
    """A review cannot be read or written."""
