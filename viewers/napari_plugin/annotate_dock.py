"""The dock for outlines: drawn with napari's own tools, classified here, kept as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QGridLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
)

from tiling.annotation_files import read_annotations, write_annotations
from tiling.annotations import Annotation, AnnotationError
from tiling.store import open_store
from viewers.errors import ReviewError
from viewers.napari_plugin.dock import Dock
from viewers.napari_plugin.scene import (
    ShownSlide,
    run_folder,
    shown_slide,
    shown_stores,
    told,
)
from viewers.review.annotations import from_shapes, to_shapes, without_hole
from viewers.run_process import RunProcess

if TYPE_CHECKING:
    import napari.viewer  # napari gives the viewer to what is annotated with this very name

CLASSES = ("Tumor", "Exclusion", "Normal", "Region", "None")
COLOURS = {
    "Tumor": "#d50000", "Exclusion": "#00c853", "Normal": "#2962ff", "Region": "#ffd600",
    "None": "#9e9e9e",
}  # fmt: skip
OTHER_COLOUR = "#aa00ff"
EDGE_PX = 2
FILES = "QuPath (*.geojson);;ASAP (*.xml);;CAMELYON JSON (*.json)"
SHAPES, POINTS = "annotations", "annotation points"


class AnnotateDock(Dock):
    """Outlines of the slide that is shown: draw, edit, classify, read and write files.

    Drawing is napari's: choose the layer `annotations` and its polygon tool. Positions in files
    are level-0 pixels; holes are kept.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self._process: RunProcess | None = None
        self.classes = QComboBox()
        self.classes.setEditable(True)
        self.classes.addItems(CLASSES)
        self.classes.setToolTip("Class of what is drawn next; type one of your own and press Enter")
        self.classes.currentTextChanged.connect(self._next_class)
        grid = QGridLayout()
        self.buttons: dict[str, QPushButton] = {}
        for index, (name, tip, action) in enumerate(
            (
                ("Draw", "Make the layer and take up the polygon tool", self.draw),
                ("Set class", "Give the chosen outlines the class above", self.set_class),
                ("Cut hole", "Cut the smaller of two chosen outlines out of the larger",
                 self.cut_hole),
                ("Import…", "Read QuPath GeoJSON, ASAP XML or CAMELYON JSON", self._choose_import),
                ("Export…", "Write QuPath GeoJSON, ASAP XML or CAMELYON JSON", self._choose_export),
                ("Label tiles", "Save, and write the share of tumour of each tile beside the run: "
                 "labels to train by", self.label_tiles),
            )
        ):  # fmt: skip
            button = QPushButton(name)
            button.setToolTip(tip)
            button.clicked.connect(action)
            self.buttons[name] = button
            grid.addWidget(button, index // 2, index % 2)
        self.state = QLabel()
        self.state.setWordWrap(True)
        form = QFormLayout()
        form.addRow("Class", self.classes)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addLayout(grid)
        layout.addWidget(self.state)
        layout.addStretch(1)
        self._timer = QTimer(self)
        self._timer.setInterval(100)
        self._timer.timeout.connect(self._follow)
        viewer.scene.camera.events.zoom.connect(self._fit_edges)

    def end_work(self) -> None:
        """End a labelling that runs."""
        self._timer.stop()
        if self._process is not None:
            self._process.cancel()

    def release_viewer(self) -> None:
        """Let go of the viewer."""
        self.viewer.scene.camera.events.zoom.disconnect(self._fit_edges)

    @property
    def layer(self) -> Any:
        """The layer of outlines; None before there is one."""
        return _layer_of(self.viewer, "annotations")

    @told
    def draw(self, *_: object) -> None:
        """Make the layer of outlines if there is none, and take up its polygon tool."""
        layer = self._require_layer()
        self.viewer.layers.selection.active = layer
        layer.mode = "add_polygon"

    def _require_layer(self) -> Any:
        if self.layer is None:
            self._add([], [], [], [])
        return self.layer

    def _add(
        self, paths: Sequence[Any], kinds: Sequence[str], names: Sequence[str],
        groups: Sequence[str],
    ) -> None:  # fmt: skip
        """Add outlines, level-0 (y, x), to the layer, which is made if there is none."""
        from napari.layers import Shapes

        if self.layer is None:
            slide = shown_slide(self.viewer)
            features = pd.DataFrame(
                {"name": pd.Series(names, dtype=object), "group": pd.Series(groups, dtype=object)}
            )
            made = Shapes(
                list(paths) or None, ndim=2, shape_type=list(kinds) or "polygon", name=SHAPES,
                features=features, edge_width=self._edge_width(slide.layer),
                feature_defaults={"name": "Annotation", "group": self.classes.currentText()},
                edge_color=[_colour(g) for g in groups] or "white", face_color="transparent",
                metadata={"kind": "annotations"}, **slide.placement,
            )  # fmt: skip
            made.current_edge_color = _colour(self.classes.currentText())
            self.viewer.add_layer(made)
        elif len(paths):
            layer = self.layer
            first = len(layer.data)
            layer.add(list(paths), shape_type=list(kinds))
            features = layer.features.copy()
            features.loc[first:, "name"] = list(names)
            features.loc[first:, "group"] = list(groups)
            layer.features = features
            self._colour_all()
        self._next_class(self.classes.currentText())
        self._fit_edges()

    def _next_class(self, group: str) -> None:
        layer = self.layer
        if layer is not None and group.strip():
            layer.feature_defaults = pd.DataFrame(
                {"name": ["Annotation"], "group": [group.strip()]}, dtype=object
            )
            chosen, layer.selected_data = set(layer.selected_data), set()
            layer.current_edge_color = _colour(group.strip())
            layer.selected_data = chosen

    @told
    def set_class(self, *_: object) -> None:
        """Give the chosen outlines the class in the box."""
        layer, group = self.layer, self.classes.currentText().strip()
        if layer is None or not layer.selected_data:
            raise ReviewError("no outline is chosen: take the select tool and click one")
        features = layer.features.copy()
        features.loc[sorted(layer.selected_data), "group"] = group
        layer.features = features
        self._colour_all()

    def _colour_all(self) -> None:
        layer = self.layer
        layer.edge_color = [_colour(str(g)) for g in layer.features["group"]]

    def _fit_edges(self, *_: object) -> None:
        """Keep edges as wide on the screen at every zoom."""
        layer = self.layer
        if layer is not None and len(layer.data):
            width = self._edge_width(layer)
            factor = layer.edge_width[0] / width
            if factor < 0.5 or factor > 2:  # 20,000 edges are not drawn anew for less
                layer.edge_width = [width] * len(layer.data)

    def _edge_width(self, layer: Any) -> float:
        """Return how wide an edge is now, px of the layer."""
        return EDGE_PX / (float(self.viewer.scene.camera.zoom) * float(layer.scale[-1]))

    @told
    def cut_hole(self, *_: object) -> None:
        """Cut the smaller of two chosen outlines out of the larger, and take it away."""
        layer = self.layer
        chosen = sorted(layer.selected_data) if layer is not None else []
        if len(chosen) != 2:
            raise ReviewError(f"{len(chosen)} outlines are chosen: choose two, one on the other")
        found = [self._annotations_at([index]) for index in chosen]
        if any(len(one) != 1 or one[0].kind != "polygon" for one in found):
            raise ReviewError("only outlines have holes: choose two polygons")
        inner, outer = sorted((one[0] for one in found), key=lambda a: a.area.area)
        data = to_shapes(without_hole(outer, inner))[0]
        layer.remove_selected()
        self._add(data.paths, data.kinds, data.names, data.groups)

    def _annotations_at(self, indices: Sequence[int]) -> list[Annotation]:
        layer = self.layer
        features = layer.features
        place = _to_level0(layer, shown_slide(self.viewer))
        return from_shapes(
            [place(np.asarray(layer.data[i])) for i in indices],
            [layer.shape_type[i] for i in indices],
            [str(features["name"].iloc[i]) for i in indices],
            [str(features["group"].iloc[i]) for i in indices],
        )

    def annotations(self) -> list[Annotation]:
        """Return all that is drawn, level-0 px."""
        found: list[Annotation] = []
        layer, points = self.layer, _layer_of(self.viewer, "annotation points")
        if layer is not None:
            found += self._annotations_at(range(len(layer.data)))
        if points is not None and len(points.data):
            place = _to_level0(points, shown_slide(self.viewer))
            names, groups = points.features["name"], points.features["group"]
            found += from_shapes(
                [], [], [], [], list(place(np.asarray(points.data))), list(names), list(groups)
            )
        return found

    def _choose_import(self, *_: object) -> None:
        kinds = "Annotations (*.geojson *.xml *.json)"
        name = QFileDialog.getOpenFileName(self, "Read annotations", "", kinds)[0]
        if name:
            self.import_file(name)

    @told
    def import_file(self, path: str | Path) -> None:
        """Add the annotations of a file; what encloses nothing is named and left out."""
        data, left_out = to_shapes(read_annotations(path))
        self._add(data.paths, data.kinds, data.names, data.groups)
        if data.points:
            self._add_points(data.points, data.point_names, data.point_groups)
        self.state.setText(f"{len(data.paths)} outlines and {len(data.points)} points read")
        if left_out:
            more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
            show_warning(
                f"{Path(path).name}: {len(left_out)} outlines were left out, repair them where "
                f"they were drawn: {'; '.join(left_out[:3])}{more}"
            )

    def _add_points(
        self, points: Sequence[Any], names: Sequence[str], groups: Sequence[str]
    ) -> None:
        from napari.layers import Points

        old = _layer_of(self.viewer, "annotation points")
        data = np.array(points)
        features = pd.DataFrame({"name": list(names), "group": list(groups)}, dtype=object)
        if old is not None:
            place = _to_level0(old, shown_slide(self.viewer))
            data = np.concatenate([place(np.asarray(old.data)), data])
            features = pd.concat([old.features, features], ignore_index=True)
            self.viewer.layers.remove(old)
        made = Points(
            data,
            features=features,
            name=POINTS,
            size=40,
            face_color="transparent",
            border_color=[_colour(str(g)) for g in features["group"]],
            border_width=0.1,
            metadata={"kind": "annotation points"},
            **shown_slide(self.viewer).placement,
        )
        self.viewer.add_layer(made)

    def _choose_export(self, *_: object) -> None:
        name = QFileDialog.getSaveFileName(self, "Write annotations", "", FILES)[0]
        if name:
            self.export_file(name)

    @told
    def export_file(self, path: str | Path) -> None:
        """Write all that is drawn to a file, whole or not at all; its suffix says the form."""
        self._write(Path(path))

    def _write(self, path: Path) -> list[Annotation]:
        found = self.annotations()
        if not found:
            raise AnnotationError("nothing is drawn: press Draw and draw a polygon first")
        write_annotations(path, found)
        self.state.setText(f"{len(found)} annotations kept in {path}")
        return found

    def save_beside_run(self) -> Path:
        """Write all that is drawn to ``OUT/annotations/<slide_id>.geojson``, and return that.

        Raises
        ------
        ReviewError, AnnotationError
            No store is open, or nothing is drawn.
        """
        stores = shown_stores(self.viewer)
        if not stores:
            raise ReviewError("no store is open, so there is no run to keep this beside: export it")
        store = open_store(stores[0])
        path = run_folder(store) / "annotations" / f"{store.slide_id}.geojson"
        self._write(path)
        return path

    @told
    def label_tiles(self, *_: object) -> None:
        """Save, and let `wsi camelyon labels` write each tile's share of tumour."""
        path = self.save_beside_run()
        folder = path.parents[1]
        if self._process is not None and self._process.is_running:
            raise ReviewError("the tiles are being labelled already: wait a moment")
        self._process = RunProcess(
            ["camelyon", "labels", str(path), "-o", str(folder), "--stores", str(folder)]
        )
        self.state.setText("labelling tiles…")
        self._timer.start()

    @told
    def _follow(self) -> None:
        process = self._process
        if process is None or process.is_running:
            return
        self._timer.stop()
        if process.returncode:
            self.state.setText("the tiles were not labelled")
            raise ReviewError(process.complaints or f"wsi ended with code {process.returncode}")
        folder = Path(process.arguments[4])
        name = Path(process.arguments[2]).stem
        self.state.setText(f"labels in {folder / 'labels' / f'{name}.csv'}")
        show_info(f"The share of tumour of each tile is in {folder / 'labels' / f'{name}.csv'}")


def _layer_of(viewer: Any, kind: str) -> Any:
    found = [layer for layer in viewer.layers if layer.metadata.get("kind") == kind]
    return found[-1] if found else None


def _colour(group: str) -> str:
    return COLOURS.get(group, OTHER_COLOUR)


def _to_level0(layer: Any, slide: ShownSlide) -> Any:
    """Return what turns a layer's data (y, x) into level-0 px of the slide; exact for our own."""
    place = slide.placement
    scale, corner = np.array(place["scale"]), np.array(place["translate"])
    own_scale, own_corner = np.array(layer.scale[-2:]), np.array(layer.translate[-2:])
    if np.array_equal(scale, own_scale) and np.array_equal(corner, own_corner):
        return lambda data: data
    return lambda data: (data * own_scale + own_corner - corner) / scale
