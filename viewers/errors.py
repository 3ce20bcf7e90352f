"""Errors of viewers."""

from tiling.errors import WSIError


class ViewerError(WSIError, RuntimeError):
    """The viewer cannot be started."""
