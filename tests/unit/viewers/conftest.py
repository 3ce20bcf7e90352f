from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from tests.unit.tiling.test_store import make_store
from tiling import SlideStore, TileSpec
from viewers.napari_plugin import hold_constants

with contextlib.suppress(ImportError):
    # triton (torch brings it on Linux) and Mesa's software OpenGL both carry LLVM: triton crashes
    # the process if it is loaded after a window was drawn, and is fine before.
    import triton._C.libtriton  # noqa: F401


hold_constants()


@pytest.fixture(autouse=True)
def no_question_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dialog that no test answers is an error; it would wait for ever."""
    try:
        from qtpy import QtWidgets as widgets  # noqa: N813
    except ImportError:
        return  # and no dialog

    def refuse(*_: object) -> None:
        raise AssertionError("a dialog waits for an answer that no test gives")

    monkeypatch.setattr(widgets.QMessageBox, "exec", refuse)
    for name in ("getExistingDirectory", "getOpenFileName", "getOpenFileNames", "getSaveFileName"):
        monkeypatch.setattr(widgets.QFileDialog, name, refuse)


@pytest.fixture
def scored_store(tissue_path: Path, tmp_path: Path) -> SlideStore:
    """16 tiles of 256 px; attention rises with the index, tile 3 could not be read."""
    store = make_store(tissue_path, tmp_path / "tissue.zarr", TileSpec(256, 0.5, min_tissue=0.5))
    attention = np.arange(1, len(store) + 1, dtype=np.float32)
    attention[3] = np.nan
    attention /= np.nansum(attention)
    store.write_prediction(
        "abmil-0a0a0a0a",
        scores={"normal": 0.25, "tumor": 0.75},
        attention=attention,
        attrs={"model_id": "m", "bad_tiles": 1, "seen_in_training": False},
    )
    return store
