"""OME-NGFF's multiscales metadata (0.4 and 0.5): which arrays are an image's levels, and its scale.

References
----------
https://ngff.openmicroscopy.org/0.5/#multiscale-md
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tiling.readers.base import UnsupportedSlideError

VERSIONS = ("0.4", "0.5")
MAX_LEVELS = 64
LAYOUT_KEY = "bioformats2raw.layout"
"""Marks a group of several images, ``0``, ``1`` and so on."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the image's arrays."""

    name: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Level:
    """One array of the image.

    Attributes
    ----------
    path
        Within the image's group.
    scale, translation
        One value per axis, in the axes' units; of a translation only that of a level against
        another means something here.
    is_scaled
        Whether the scale is stated; 1 stands for what is not.
    """

    path: str
    scale: tuple[float, ...]
    translation: tuple[float, ...]
    is_scaled: bool


@dataclass(frozen=True, slots=True)
class Multiscales:
    """An image as its group's attributes describe it."""

    version: str
    name: str
    axes: tuple[Axis, ...]
    levels: tuple[Level, ...]

    def place(self, axis: str) -> int | None:
        """Return where the axis of that name stands among the arrays' axes; None if nowhere."""
        return next((i for i, one in enumerate(self.axes) if one.name == axis), None)


def ngff_attributes(attributes: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return where a group keeps its OME metadata, and their version: 0.5 has a place for both."""
    inner = attributes.get("ome")
    if isinstance(inner, Mapping):
        return inner, str(inner.get("version", ""))
    images = attributes.get("multiscales")
    first = images[0] if isinstance(images, Sequence) and images else {}
    version = first.get("version", VERSIONS[0]) if isinstance(first, Mapping) else ""
    return attributes, str(version)


def is_image_group(attributes: Mapping[str, Any]) -> bool:
    """Whether a Zarr group's attributes say that it is an image, or a group of several.

    Examples
    --------
    >>> is_image_group({"ome": {"multiscales": []}}), is_image_group({"wsi_pipeline": {}})
    (True, False)
    """
    metadata, _ = ngff_attributes(attributes)
    return "multiscales" in metadata or LAYOUT_KEY in metadata


def parse_multiscales(attributes: Mapping[str, Any]) -> Multiscales:
    """Return the (first) image that a group's attributes describe.

    Raises
    ------
    UnsupportedSlideError
        They describe none, or in a version or a way that is not read.
    """
    metadata, version = ngff_attributes(attributes)
    if "plate" in metadata or "well" in metadata:
        raise UnsupportedSlideError("ome-zarr: a plate of many images; name one of its images")
    images = metadata.get("multiscales")
    if not isinstance(images, Sequence) or not images or not isinstance(images[0], Mapping):
        raise UnsupportedSlideError("ome-zarr: a Zarr group without OME-NGFF multiscales")
    if version not in VERSIONS:
        raise UnsupportedSlideError(
            f"ome-zarr: OME-NGFF {version or 'of no version'}; {' and '.join(VERSIONS)} are read"
        )
    try:
        return _parse_image(images[0], version)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise UnsupportedSlideError(f"ome-zarr: malformed multiscales: {err!r}") from err


def _parse_image(image: Mapping[str, Any], version: str) -> Multiscales:
    axes = tuple(Axis(str(a["name"]), str(a.get("unit") or "")) for a in image["axes"])
    names = [axis.name for axis in axes]
    if len(set(names)) != len(names) or not {"x", "y"} <= set(names):
        raise ValueError(f"axes {names}")
    datasets = image["datasets"]
    if not 0 < len(datasets) <= MAX_LEVELS:
        raise ValueError(f"{len(datasets)} datasets")
    unit, origin = [1.0] * len(axes), [0.0] * len(axes)
    outer_scale, outer_translation = _transform(image, len(axes))
    levels = []
    for dataset in datasets:
        scale, translation = _transform(dataset, len(axes))
        pairs = zip(scale or unit, outer_scale or unit, strict=True)
        moved = zip(
            translation or origin, outer_scale or unit, outer_translation or origin, strict=True
        )
        levels.append(
            Level(
                path=str(dataset["path"]),
                scale=tuple(inner * outer for inner, outer in pairs),
                translation=tuple(inner * factor + outer for inner, factor, outer in moved),
                is_scaled=scale is not None or outer_scale is not None,
            )
        )
    return Multiscales(version, str(image.get("name") or ""), axes, tuple(levels))


def _transform(
    holder: Mapping[str, Any], count: int
) -> tuple[list[float] | None, list[float] | None]:
    """Return the scale and the translation that an image or a dataset states."""
    found: dict[str, list[float]] = {}
    for step in holder.get("coordinateTransformations") or ():
        kind = step["type"]
        if kind == "identity":
            continue
        if kind not in ("scale", "translation") or not isinstance(step.get(kind), list):
            raise ValueError(f"coordinate transformation {step}")
        found[kind] = [float(v) for v in step[kind]]
        if len(found[kind]) != count or not all(math.isfinite(v) for v in found[kind]):
            raise ValueError(f"{kind} {found[kind]} for {count} axes")
    if min(found.get("scale", [1.0])) <= 0:
        raise ValueError(f"scale {found['scale']}")
    return found.get("scale"), found.get("translation")
