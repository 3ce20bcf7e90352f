"""What can be wrong with the files of a challenge. Nothing is guessed in their place."""

from __future__ import annotations

from wsi_pipeline.errors import UsageError


class DetectionError(UsageError):
    """A file of detections is missing, or holds what is no detection."""


class MaskError(UsageError):
    """A tumour mask is missing, ambiguous, or holds what is no mask."""


class ChallengeTableError(UsageError):
    """A table of slides, nodes or patients is wrong, or does not fit another."""
