"""Errors of a run as a whole; those of one slide come from the packages below."""

from tiling.errors import WSIError


class UsageError(WSIError, ValueError):
    """A flag, a configuration key or a manifest is wrong; nothing was started."""


class OutputError(WSIError, OSError):
    """The output folder cannot be written."""
