"""The dock that shows what in a tile moved the slide's score, and the score without a region."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.qt.threading import thread_worker
from napari.utils.notifications import show_error
from numpy.typing import NDArray
from qtpy.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
)

from tiling.errors import WSIError
from tiling.store import SlideStore, open_store
from viewers.colours import colours
from viewers.errors import ReviewError
from viewers.napari_plugin.dock import Dock
from viewers.napari_plugin.scene import ShownSlide, shown_slide, shown_stores, told

if TYPE_CHECKING:
    import napari.viewer  # napari gives the viewer to what is annotated with this very name

    from mil_models import Encoder, Model

LAYER = "Grad-CAM"
SMALLEST = 1e-30
"""Of a scale, where nothing in a tile matters."""
INSTALL = "pip install 'wsi-pipeline[mil]'"


@dataclass(frozen=True, slots=True)
class Request:
    """A tile to be explained, and by what; `encoder` and `weights` are "" for the model's own."""

    model: str
    encoder: str
    weights: str
    store: str
    index: int


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What came of a request: raw values ``(H, W)``, and what was found in words."""

    request: Request
    values: NDArray[np.float32]
    text: str


class ExplainDock(Dock):
    """Click a tile: what in it speaks for the model's answer (red) or against (blue), in place.

    Values of all tiles that were clicked have one scale, so that they can be compared.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.store: SlideStore | None = None
        self.index = -1
        self._worker: Any = None
        self._loaded: dict[tuple[str, str, str], tuple[Model, Encoder]] = {}
        self._highest = 0.0
        self.model, self.encoder, self.weights = QLineEdit(), QLineEdit(), QLineEdit()
        self.model.setPlaceholderText("Model folder made by `wsi train`")
        self.encoder.setPlaceholderText("The model's own")
        self.weights.setPlaceholderText("The published ones")
        self.encoder.setToolTip("A TOML file, where the encoder is one of your own")
        self.weights.setToolTip("A file, where the model's encoder had weights of your own")
        choose = QPushButton("Choose…")
        choose.clicked.connect(self._choose)
        place = QHBoxLayout()
        place.addWidget(self.model, 1)
        place.addWidget(choose)
        form = QFormLayout()
        form.addRow("Model", place)
        form.addRow("Encoder", self.encoder)
        form.addRow("Weights", self.weights)
        self.click_button = QPushButton("Explain on click")
        self.click_button.setCheckable(True)
        self.click_button.setToolTip("While this is down, a click on the slide explains that tile")
        self.without_button = QPushButton("Score without the region")
        self.without_button.setToolTip(
            "What the model would say without the region in review, or without the clicked tile"
        )
        self.without_button.clicked.connect(self.score_without)
        self.answer = QLabel("Choose a model, press Explain on click, and click a tile.")
        self.answer.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self.click_button)
        layout.addWidget(self.without_button)
        layout.addWidget(self.answer)
        layout.addStretch(1)
        viewer.mouse_drag_callbacks.append(self._pressed)

    def release_viewer(self) -> None:
        """Let go of the viewer's mouse."""
        if self._pressed in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._pressed)

    def _choose(self, *_: object) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Model folder", "")
        if folder:
            self.model.setText(folder)

    def _pressed(self, _viewer: Any, event: Any) -> Generator[None]:
        """Explain where the mouse goes up again without having been moved."""
        if not self.click_button.isChecked():
            return
        yield
        moved = 0
        while event.type == "mouse_move":
            moved += 1
            yield
        if moved <= 2:
            self.explain_at(*event.position[-2:])

    @told
    def explain_at(self, y: float, x: float) -> None:
        """Explain the tile at a place of the viewer's world (µm)."""
        slide, store = self._shown()
        index = tile_at(store, slide, (y, x))
        self.store, self.index = store, index
        request = Request(
            self._model_path(), self.encoder.text().strip(), self.weights.text().strip(),
            store.path, index,
        )  # fmt: skip
        self.answer.setText("looking…")
        self._start(_explain, self._show, request)

    def _shown(self) -> tuple[ShownSlide, SlideStore]:
        slide = shown_slide(self.viewer)
        stores = shown_stores(self.viewer)
        if not stores:
            raise ReviewError("no store is open: open a slide's store, its tiles are explained")
        return slide, open_store(stores[0])

    def _model_path(self) -> str:
        path = self.model.text().strip()
        if not path:
            raise ReviewError("no model is chosen: choose the folder that `wsi train` made")
        return str(Path(path).resolve())

    def _start(self, work: Any, take: Any, *arguments: Any) -> None:
        worker = thread_worker(work)(self._loaded, *arguments)
        worker.returned.connect(lambda found: self._take(take, found))
        self._worker = worker
        worker.start()

    def _take(self, take: Any, found: Any) -> None:
        if isinstance(found, str):
            self.answer.setText("")
            show_error(found)
        else:
            take(found)

    def _show(self, found: Answer) -> None:
        """Draw a map over its tile, on the scale of all that were drawn."""
        from napari.layers import Image

        if self.store is None or found.request.store != self.store.path:
            return  # another slide is shown by now
        store = self.store
        placement = tile_placement(store, shown_slide(self.viewer), found.request.index,
                                   found.values.shape)  # fmt: skip
        self._highest = max(self._highest, float(np.nanmax(np.abs(found.values))), SMALLEST)
        for layer in [v for v in self.viewer.layers if v.metadata.get("kind") == "explanation"]:
            if layer.metadata["index"] == found.request.index:
                self.viewer.layers.remove(layer)
            else:
                layer.contrast_limits = (-self._highest, self._highest)
        active = self.viewer.layers.selection.active
        clear = (0.0, 0.0, 0.0, 0.0)
        made = Image(
            found.values,
            name=f"{LAYER} tile {found.request.index}",
            colormap={"name": "wsi-blue-red", "colors": colours("blue-red"), "nan_color": clear},
            contrast_limits=(-self._highest, self._highest),
            blending="translucent",
            interpolation2d="linear",
            metadata={"kind": "explanation", "index": found.request.index},
            **placement,
        )
        self.viewer.add_layer(made)
        if active is not None:
            self.viewer.layers.selection.active = active
        self.answer.setText(found.text)

    def _show_text(self, found: Text) -> None:
        self.answer.setText(found.text)

    @told
    def score_without(self, *_: object) -> None:
        """Say what the score is without the region in review, or without the clicked tile."""
        store = self._shown()[1]
        marked = [v for v in self.viewer.layers if v.metadata.get("kind") == "marker"]
        if marked:
            tiles, what = marked[-1].metadata["tiles"], f"region {marked[-1].metadata['rank']}"
        elif self.index >= 0 and self.store is not None and self.store.path == store.path:
            tiles, what = [self.index], f"tile {self.index}"
        else:
            raise ReviewError("no region is chosen: walk to one in the review, or click a tile")
        self.answer.setText("scoring…")
        self._start(_without, self._show_text, self._model_path(), store.path, tiles, what)


def tile_at(store: SlideStore, slide: ShownSlide, place: tuple[float, float]) -> int:
    """Return the tile at a place (y, x) of the viewer's world; of several the nearest's middle.

    Raises
    ------
    ReviewError
        There is none.
    """
    grid = store.grid
    scale, corner = slide.placement["scale"], slide.placement["translate"]
    y, x = ((p - c) / s for p, c, s in zip(place, corner, scale, strict=True))
    offset = np.array([x, y]) - grid.coords
    inside = ((offset >= 0) & (offset < np.asarray(grid.extent))).all(axis=1)
    if not inside.any():
        raise ReviewError(f"no tile at level-0 ({x:.0f}, {y:.0f}): click where the heatmap is")
    away = np.abs(offset - np.asarray(grid.extent) / 2).sum(axis=1)
    return int(np.where(inside, away, np.inf).argmin())


def tile_placement(
    store: SlideStore, slide: ShownSlide, index: int, shape: tuple[int, ...]
) -> dict[str, Any]:
    """Return where a picture of `shape` lies that covers a tile, as a layer takes it."""
    grid = store.grid
    scale, corner = slide.placement["scale"], slide.placement["translate"]
    x0, y0 = grid.coords[index].tolist()
    size = tuple(grid.extent[1 - axis] * scale[axis] / shape[axis] for axis in (0, 1))
    start = tuple(corner[axis] + (y0, x0)[axis] * scale[axis] + size[axis] / 2 for axis in (0, 1))
    return {"scale": size, "translate": start, "units": slide.placement["units"]}


def _explain(loaded: dict[Any, Any], request: Request) -> Answer | str:
    """Explain a tile, in a worker's thread; return what is wrong in words if it cannot be."""
    try:
        from mil_models import explain_tile, explaining_encoder, load_model
        from tiling.slide import open_slide
        from tiling.tiles import read_tiles

        started = time.perf_counter()
        key = (request.model, request.encoder, request.weights)
        if key not in loaded:
            model = load_model(request.model)
            encoder = explaining_encoder(
                model, encoder=request.encoder or None, weights=request.weights or None
            )
            loaded[key] = model, encoder
        model, encoder = loaded[key]
        store = open_store(request.store)
        with open_slide(store.slide_path, mpp=store.slide_mpp) as slide:
            tiles, _ = read_tiles(slide, store.grid.coords[[request.index]], store.geometry)
        found = explain_tile(model, encoder, store, request.index, tiles[0])
    except ImportError as err:
        return f"{err.name} is not installed: {INSTALL}"
    except (WSIError, OSError) as err:
        return str(err)
    low, high = float(np.nanmin(found.values)), float(np.nanmax(found.values))
    lines = [
        f"<b>Tile {request.index}</b>: for {found.output}, raw values {low:.2e} to {high:.2e}; "
        f"the slide's logit is {found.logit:.3f} ({time.perf_counter() - started:.1f} s)"
    ]
    if high <= 0:
        lines.append(f"Nothing in this tile speaks for {found.output}: it is evidence against.")
    if found.drift > 1e-2:
        lines.append(
            f"<b>The tile's embedding is not the stored one (1 - cosine {found.drift:.2f})</b>: "
            "is the slide still the same?"
        )
    lines.append("Where the network looks, not what is there. Research use only.")
    return Answer(request, found.values, "<br>".join(lines))


def _without(_loaded: dict[Any, Any], model: str, path: str, tiles: list[int], what: str) -> Any:
    """Score without tiles, in a worker's thread; return the answer, or why there is none."""
    try:
        from mil_models import load_model, score_without

        loaded, store = load_model(model), open_store(path)
        place = list(loaded.classes).index(loaded.positive)
        whole = score_without(store, loaded, np.zeros(0, np.int64))
        left = score_without(store, loaded, np.array(tiles, np.int64))
    except ImportError as err:
        return f"{err.name} is not installed: {INSTALL}"
    except (WSIError, OSError) as err:
        return str(err)
    before, after = float(whole.scores[place]), float(left.scores[place])
    return Text(
        f"<b>{loaded.positive} {before:.3f} → {after:.3f}</b> without {what} ({len(tiles)} of "
        f"{len(store)} tiles); answer: {whole.label} → {left.label}"
    )


@dataclass(frozen=True, slots=True)
class Text:
    """An answer in words, unlike the plain text of what went wrong."""

    text: str
