"""The keys, in one table: tooltips, the sheet of keys and the bindings are made from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from viewers.magnification import PRESETS

if TYPE_CHECKING:
    from napari.viewer import Viewer


class Key(NamedTuple):
    """One key: as napari spells it, what it does, and the group it is listed in."""

    key: str
    does: str
    group: str


VIEW, OVERLAYS, MEASURE, REVIEW = "View", "Overlays", "Measure", "Review"

KEYS: tuple[Key, ...] = (
    *(Key(str(number), f"{preset:g}x", VIEW) for number, preset in enumerate(PRESETS, start=1)),
    Key("0", "whole slide", VIEW),
    Key("O", "overview on or off", VIEW),
    Key("H", "hide or show all overlays", OVERLAYS),
    Key("M", "measure a length; again: an area; again: stop", MEASURE),
    Key("F1", "this sheet", VIEW),
    Key("Enter", "next region", REVIEW),
    Key("J", "next region", REVIEW),
    Key("K", "previous region", REVIEW),
    Key("A", "agree", REVIEW),
    Key("D", "disagree", REVIEW),
    Key("U", "unsure", REVIEW),
    Key("N", "write a note on the region", REVIEW),
    Key("Control-J", "next unread slide of the worklist", REVIEW),
)


def tooltip(key: str, text: str = "") -> str:
    """Return a tooltip that names `key`, and what it does unless `text` says so.

    Examples
    --------
    >>> tooltip("H"), tooltip("2", "Show the slide at 5x")
    ('hide or show all overlays (key H)', 'Show the slide at 5x (key 2)')
    """
    does = {entry.key: entry.does for entry in KEYS}[key]
    return f"{text or does} (key {key})"


def bind(viewer: Viewer, key: str, action: Callable[[], Any]) -> None:
    """Let `key` of the table do `action`, whatever image is selected.

    napari asks the selected layer for a key before the window, and image layers take 1 and 2 for
    themselves; so it is bound to them too. Layers that are drawn on keep their own keys.

    Raises
    ------
    KeyError
        `key` is not in the table.
    """
    from napari.layers import Image

    tooltip(key)

    def pressed(_: Any) -> None:
        action()

    def bind_layer(layer: Any) -> None:
        if isinstance(layer, Image):
            layer.bind_key(key, pressed, overwrite=True)

    viewer.bind_key(key, pressed, overwrite=True)
    for layer in viewer.layers:
        bind_layer(layer)
    viewer.layers.events.inserted.connect(lambda event: bind_layer(event.value))


def key_name(event: Any) -> str:
    """Return the key of Qt's event as the table spells it; both Enters are one."""
    from qtpy.QtCore import Qt

    is_enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
    return "Enter" if is_enter else str(event.text()).upper()


def key_table() -> dict[str, list[Key]]:
    """Return all keys by group, in the table's order."""
    groups: dict[str, list[Key]] = {}
    for entry in KEYS:
        groups.setdefault(entry.group, []).append(entry)
    return groups
