"""A store whose attention has ten islands, and the slide they lie on."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.unit.tiling.test_store import make_store
from tiling import SlideStore, TileSpec

napari = pytest.importorskip("napari")
needs_display = pytest.mark.skipif(
    sys.platform == "linux" and shutil.which("Xvfb") is None, reason="no Xvfb to draw on"
)

ISLANDS = [(x, y) for y in (256, 512, 768) for x in (512, 768, 1024, 1280)][:10]
"""Level-0 corners of ten tiles of 128 px that do not touch each other."""


@pytest.fixture(autouse=True)
def own_second_place(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The user's data folder is a fresh one, and nothing waits from one test to the next."""
    from viewers.review import log, opened
    from viewers.review.keeper import KEEPER

    folder = tmp_path_factory.mktemp("data") / "waiting"
    monkeypatch.setattr(log, "spare_folder", lambda: folder)
    monkeypatch.setattr(opened, "opened_path", lambda: folder.with_name("opened.jsonl"))
    yield folder
    KEEPER.waiting.clear()


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What napari's notifications said, oldest first."""
    from napari.utils.notifications import notification_manager

    found: list[str] = []

    def heard(notification: object) -> None:
        found.append(str(notification.message))  # type: ignore[attr-defined]

    notification_manager.notification_ready.connect(heard)
    yield found
    notification_manager.notification_ready.disconnect(heard)


@pytest.fixture
def reviewed_store(tissue_path: Path, tmp_path: Path) -> SlideStore:
    """64 tiles of 128 px; ten of them high, the first of `ISLANDS` the highest."""
    folder = tmp_path / "out" / "stores"
    folder.mkdir(parents=True)
    spec = TileSpec(128, 0.5, min_tissue=0.5)
    store = make_store(tissue_path, folder / "tissue.zarr", spec, "tissue")
    values = np.linspace(0, 0.01, len(store))
    places = store.grid.coords.tolist()
    for index, place in enumerate(ISLANDS):
        values[places.index(list(place))] = 1 - index / 100
    store.write_prediction(
        "abmil-0a0a0a0a",
        scores={"normal": 0.25, "tumor": 0.75},
        attention=(values / values.sum()).astype(np.float32),
        attrs={"model_id": "m1", "bad_tiles": 0, "seen_in_training": False, "calibrated": True,
               "positive": "tumor", "operating_point": 0.4},
    )  # fmt: skip
    return store
