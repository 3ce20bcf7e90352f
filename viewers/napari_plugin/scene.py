"""What the docks share: the slide and stores that are shown, level-0 places, notifications."""

from __future__ import annotations

import functools
import getpass
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from napari.utils.notifications import show_error

from tiling.errors import WSIError
from tiling.geometry import Region
from tiling.store import SlideStore
from viewers.errors import ReviewError
from viewers.layers import store_layers

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

MINIMUM_WIDTH = 380
"""Of a dock, screen px."""
FILL = 0.5
"""How much of the window a region takes when the view jumps to it."""
FINEST_MPP = 0.25
"""A jump never goes closer than this many µm a screen pixel: 40x."""

P = ParamSpec("P")
Self = TypeVar("Self")


@dataclass(frozen=True, slots=True)
class ShownSlide:
    """A slide in the viewer: its layer, where it is, and its pixel size (x, y), µm or None."""

    layer: Layer
    path: str
    mpp: tuple[float, float] | None

    @property
    def slide_id(self) -> str:
        """The name of its file, or what its layer says."""
        return str(self.layer.metadata.get("slide_id") or Path(self.path).stem)

    @property
    def placement(self) -> dict[str, Any]:
        """How a layer whose data are level-0 px (y, x), corners of pixels, lies on the slide."""
        scale = tuple(float(s) for s in self.layer.scale[-2:])
        origin = tuple(float(t) for t in self.layer.translate[-2:])
        corner = tuple(t - s / 2 for t, s in zip(origin, scale, strict=True))
        return {"scale": scale, "translate": corner, "units": self.layer.units[-2:]}


def shown_slide(viewer: Viewer) -> ShownSlide:
    """Return the chosen slide, or the first that is shown.

    Raises
    ------
    ReviewError
        There is none.
    """
    chosen = [layer for layer in viewer.layers.selection if _is_slide(layer)]
    for layer in [*chosen, *filter(_is_slide, viewer.layers)]:
        mpp = layer.metadata.get("mpp")
        return ShownSlide(layer, str(layer.metadata["path"]), tuple(mpp) if mpp else None)
    raise ReviewError("no slide is open: open one by File > Open, or a run's store")


def shown_stores(viewer: Viewer) -> list[str]:
    """Return where the stores of the overlays in the viewer are, each once, the chosen ones first.

    With several slides open, those of the first one alone.
    """
    chosen = sorted(viewer.layers, key=lambda layer: layer not in viewer.layers.selection)
    return list(dict.fromkeys(str(v.metadata["store"]) for v in chosen if v.metadata.get("store")))


def run_folder(store: SlideStore) -> Path:
    """Return the output folder of the run that a store is part of.

    Raises
    ------
    ReviewError
        The store is at a URL.
    """
    if "://" in store.path:
        raise ReviewError(f"{store.path}: is not on a disk; copy the run here")
    folder = Path(store.path).resolve().parent
    return folder.parent if folder.name == "stores" else folder


def show_store(viewer: Viewer, store: SlideStore) -> None:
    """Show a store's slide and heatmaps in place of what was shown of another slide.

    Layers that did not come from a slide or a store stay.
    """
    from napari.layers import Layer

    remove_slides(viewer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = [Layer.create(*data) for data in store_layers(store.path)]
    for layer in made:
        layer.metadata.setdefault("slide_id", store.slide_id)
        layer.metadata.setdefault("store", store.path)
        viewer.add_layer(layer)
    slides = [layer for layer in made if _is_slide(layer)]
    if slides:
        viewer.layers.selection.active = slides[0]
    viewer.reset_view()
    viewer.title = f"{store.slide_id} · research use only"
    if not slides:
        said = next((str(w.message) for w in caught), f"{store.slide_id}: its slide is not there")
        show_error(f"{said}. Put it back to {store.slide_path}, or review by the heatmap alone.")


def show_slide(viewer: Viewer, slide_id: str, path: str) -> None:
    """Show a slide that has no store, in place of what was shown of another slide.

    Raises
    ------
    SlideError
        It cannot be opened; what was shown stays.
    """
    from napari.layers import Layer

    from viewers.napari_plugin.reader import attend, read_layers

    data = read_layers(path)
    remove_slides(viewer)
    for one in data:
        layer = Layer.create(*one)
        layer.metadata["slide_id"] = slide_id
        viewer.add_layer(layer)
    attend(data)
    viewer.reset_view()
    viewer.title = f"{slide_id} · research use only"


def remove_slides(viewer: Viewer) -> None:
    """Remove all that came from a slide or a store."""
    for layer in list(viewer.layers):
        if _is_slide(layer) or layer.metadata.get("store"):
            viewer.layers.remove(layer)


def show_store_over(viewer: Viewer, store: SlideStore) -> None:
    """Show a store over its slide if that is open, by itself if none is.

    Raises
    ------
    ReviewError
        Another slide is shown.
    """
    try:
        slide = shown_slide(viewer)
    except ReviewError:
        pass
    else:
        check_same_slide(slide, store)
    show_store(viewer, store)


def check_same_slide(slide: ShownSlide, store: SlideStore) -> None:
    """Make sure that a store was made from the slide that is shown.

    Raises
    ------
    ReviewError
        It is another slide's.
    """
    from tiling.source import read_source

    if read_source(slide.path).quick_hash != store.source.quick_hash:
        raise ReviewError(
            f"{Path(store.path).name} is the store of {store.source.name}, not of "
            f"{Path(slide.path).name}, which is shown: open the store by itself, or take the store "
            "that was made from this slide"
        )


def jump_to(viewer: Viewer, slide: ShownSlide, box: Region) -> None:
    """Move the view so that a region (level-0 px) lies in its middle and takes half of it."""
    scale_y, scale_x = slide.placement["scale"]
    camera, (height, width) = viewer.scene.camera, viewer.canvas.size
    zoom = FILL * min(height / (box.height * scale_y), width / (box.width * scale_x))
    closest = 1 / FINEST_MPP if slide.mpp is not None else 1.0
    middle = (box.y0 + (box.height - 1) / 2, box.x0 + (box.width - 1) / 2)
    camera.center = tuple(slide.layer.data_to_world(middle)[-2:])  # however the slide is turned
    camera.zoom = min(zoom, closest)


def user_name() -> str:
    """Return who is logged in; "" for one without a name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def told(
    action: Callable[Concatenate[Self, P], None],
) -> Callable[Concatenate[Self, P], None]:
    """Show what goes wrong in a dock's action as a notification; the dock and napari live on."""

    @functools.wraps(action)
    def wrapped(dock: Self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            action(dock, *args, **kwargs)
        except (WSIError, OSError) as err:
            show_error(str(err))

    return wrapped


def _is_slide(layer: Layer) -> bool:
    said = layer.metadata.get("kind")
    return said == "slide" if said else bool(layer.metadata.get("path") and layer.rgb)
