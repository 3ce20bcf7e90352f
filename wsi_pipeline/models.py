"""Encoders and models as this process holds them: each loaded once."""

from __future__ import annotations

import functools
import importlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mil_models
from wsi_pipeline.config import DEFAULT_ENCODER, EncoderOptions
from wsi_pipeline.errors import UsageError, as_usage_error

if TYPE_CHECKING:
    from mil_models import Encoder, Model
    from mil_models.encoder_spec import EncoderSpec

_encoders: dict[EncoderOptions, Encoder] = {}
"""This process's one encoder, by the options it was asked for and by those it came to."""
_loading = threading.Lock()
"""Two slides are in work at once, but there is one encoder."""


def find_encoder(options: EncoderOptions) -> EncoderSpec:
    """Return what is known of the encoder before its weights are loaded."""
    require_models()
    from mil_models.network import find_spec

    return find_spec(options.encoder or DEFAULT_ENCODER)


def load_encoder(options: EncoderOptions) -> Encoder:
    """Return this process's encoder for `options`."""
    with _loading:
        if options not in _encoders:
            require_models()
            with as_usage_error():
                found = mil_models.create_encoder(
                    options.encoder or DEFAULT_ENCODER,
                    weights=options.weights,
                    random_weights=options.random_weights,
                    device=options.device,
                    batch_size=options.batch_size,
                    engine=options.engine,
                    precision=options.precision,
                )
            _encoders.clear()
            _encoders[options] = _encoders[resolved(options, found)] = found
        return _encoders[options]


def resolved(options: EncoderOptions, encoder: Encoder) -> EncoderOptions:
    """Return `options` with what ``auto`` came to, so that every worker does the same."""
    contract = encoder.contract
    found: dict[str, Any] = {
        "batch_size": contract.batch,
        "engine": contract.engine,
        "precision": contract.precision,
    }
    return replace(options, **found)


@functools.lru_cache(maxsize=1)
def load_model(path: Path) -> Model:
    """Return this process's copy of the model at `path`."""
    require_models()
    return mil_models.load_model(path)


def require_models() -> None:
    """Make sure that what `mil_models` needs is installed, or say what to install."""
    try:
        importlib.import_module("mil_models.encoders")
    except ImportError as err:
        raise UsageError(f"{err.name} is not installed: pip install 'wsi-pipeline[mil]'") from err
