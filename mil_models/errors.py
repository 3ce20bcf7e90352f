"""Errors of encoders, models and training."""

from tiling.errors import WSIError


class EncoderError(WSIError):
    """Something is wrong with an encoder."""


class UnknownEncoderError(EncoderError, ValueError):
    """There is no encoder of this name."""


class EncoderSpecError(EncoderError, ValueError):
    """A file that describes an encoder is wrong."""


class MissingPluginError(EncoderError, ImportError):
    """The encoder's authors ship their own code, and no installed package brings it in."""


class WeightsError(EncoderError, OSError):
    """The encoder's weights are not here, or are not what they should be."""


class EncoderMismatchError(EncoderError, ValueError):
    """The encoder was not made for tiles of this size or pixel size."""


class EmptyBagError(WSIError, ValueError):
    """A slide has no tile that could be embedded."""


class MissingCoordsError(WSIError, ValueError):
    """A head that looks at where tiles lie was not told."""


class LabelTableError(WSIError, ValueError):
    """The table of labels is wrong, or does not fit the stores."""


class PredictionTableError(LabelTableError):
    """A table of predictions is wrong, or does not fit its labels."""


class SplitError(LabelTableError):
    """A table of splits is wrong, or does not fit the labels."""


class ModelError(WSIError, ValueError):
    """A model folder is missing something, or holds something else."""


class EmbeddingValueError(WSIError, ValueError):
    """Stored embeddings of tiles that were read are no numbers."""


class ExplanationError(WSIError, ValueError):
    """A tile or a network cannot be explained."""


class CalibrationError(WSIError, ValueError):
    """The slides do not suffice to calibrate by, or a card holds no calibration."""


class ModelMismatchError(ModelError):
    """The store's embeddings were not made as the model's were."""


class EngineError(EncoderError, ValueError):
    """An engine is not installed, or cannot do what is asked of it."""


class EncoderOutputError(EncoderError, ValueError):
    """The encoder gave something that is no number."""
