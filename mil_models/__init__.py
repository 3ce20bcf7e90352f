"""Encoders, embeddings and MIL models. Names load on first use: importing brings no torch."""

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mil_models.checkpoint import Model, load_model
    from mil_models.embedding import embed, made_with
    from mil_models.encoders import Encoder, create_encoder, device_of
    from mil_models.explanation import (
        TileExplanation,
        explain_tile,
        explaining_encoder,
        score_without,
    )
    from mil_models.growing import GrowingScore
    from mil_models.heads import MILHead, MILOutput, create_head
    from mil_models.prediction import predict, predict_bag, predict_patient
    from mil_models.training import train

# torch's threads (GNU OpenMP) spin 300,000 times while they wait for each other, unless told before
# they are loaded. Beside much other work a step over a small bag then takes not 3 but over 100 ms
# of each core. 10,000 times are as fast where nobody else works, and harmless where many do.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_HOMES = {
    "Encoder": "encoders",
    "GrowingScore": "growing",
    "MILHead": "heads",
    "MILOutput": "heads",
    "Model": "checkpoint",
    "TileExplanation": "explanation",
    "create_encoder": "encoders",
    "create_head": "heads",
    "device_of": "encoders",
    "embed": "embedding",
    "explain_tile": "explanation",
    "explaining_encoder": "explanation",
    "load_model": "checkpoint",
    "made_with": "embedding",
    "predict": "prediction",
    "predict_bag": "prediction",
    "predict_patient": "prediction",
    "score_without": "explanation",
    "train": "training",
}

__all__ = [
    "Encoder",
    "GrowingScore",
    "MILHead",
    "MILOutput",
    "Model",
    "TileExplanation",
    "create_encoder",
    "create_head",
    "device_of",
    "embed",
    "explain_tile",
    "explaining_encoder",
    "load_model",
    "made_with",
    "predict",
    "predict_bag",
    "predict_patient",
    "score_without",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
