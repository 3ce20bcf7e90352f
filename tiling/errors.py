"""Errors that callers can catch by name; each also derives from the builtin a caller expects."""

from tiling.urls import redacted


class WSIError(Exception):
    """Root of every error this project raises on purpose; its message shows no credentials."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(redacted(a) if isinstance(a, str) else a for a in args))


class SlideError(WSIError):
    """Something is wrong with one slide."""


class SlideOpenError(SlideError, OSError):
    """The file is missing, is not a slide, or no reader understands it."""


class SlideAccessError(SlideOpenError):
    """A URL's file is not there, access to it is refused, or its bytes cannot be had by ranges."""


class UnsoundSlideError(SlideOpenError):
    """The file states of itself what cannot be true; no reader gets it."""


class SlideReadError(SlideError, OSError):
    """The slide opened, but its pixels cannot be decoded."""


class SlideTooLargeError(SlideError, ValueError):
    """The size that a slide states is beyond what any memory holds."""


class MissingMppError(SlideError, ValueError):
    """The slide states no pixel size and the caller gave none."""


class ImplausibleMppError(SlideError, ValueError):
    """The pixel size lies outside what any slide scanner produces."""


class ConflictingMppError(SlideError, ValueError):
    """Two plausible pixel sizes in one file contradict each other."""


class StoreError(WSIError):
    """Something is wrong with a slide store."""


class StoreOpenError(StoreError, OSError):
    """There is no complete slide store at this path."""


class StoreSchemaError(StoreError, ValueError):
    """The store was written with a schema this version does not read."""


class StoreMismatchError(StoreError, ValueError):
    """The store holds results made from other pixels or with other parameters."""


class MissingNodeError(StoreError, LookupError):
    """The store does not hold the embeddings, prediction or tiles asked for."""
