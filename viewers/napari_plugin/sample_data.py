"""Slides in napari's File > Open Sample menu, made of CC0 pixels on first use."""

from __future__ import annotations

import tempfile
from pathlib import Path

from viewers.layers import LayerData, slide_layers


def normal_slide() -> list[LayerData]:
    """Return a sample slide without tumour."""
    return _sample(0)


def tumor_slide() -> list[LayerData]:
    """Return a sample slide with a tumour."""
    return _sample(1)


def _sample(index: int) -> list[LayerData]:
    from tiling.samples import write_sample_slide

    folder = Path(tempfile.gettempdir()) / "wsi-pipeline-samples"
    return slide_layers(write_sample_slide(folder, index))
