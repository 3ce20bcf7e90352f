"""Files that other tools read: QuPath's GeoJSON."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling.atomic import replacing

_NAMESPACE = uuid.UUID("6f5a2c0e-90d9-4c1b-9a8e-3f3b9d0e7a11")


def tile_features(
    slide_id: str,
    coords: NDArray[np.int64],
    extent: tuple[int, int],
    measurements: Mapping[str, NDArray[np.floating]],
    *,
    slide_size: tuple[int, int],
) -> dict[str, Any]:
    """Return tiles as a GeoJSON FeatureCollection that QuPath opens as tile objects.

    Parameters
    ----------
    coords, extent
        x0, y0 of the tiles and their (width, height), level-0 px; cut at the slide's end.
    measurements
        Values by name, each of shape ``(N,)``; a tile of NaN goes without that measurement.

    Returns
    -------
    Polygons in level-0 px. A tile's id depends on the slide and its place alone, so that a second
    export replaces the first.
    """
    width, height = slide_size
    features = []
    for index, (x0, y0) in enumerate(coords.tolist()):
        x1, y1 = min(x0 + extent[0], width), min(y0 + extent[1], height)
        values = {name: float(v[index]) for name, v in measurements.items()}
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(_NAMESPACE, f"{slide_id}/{x0}/{y0}/{extent}")),
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]],
                },
                "properties": {
                    "objectType": "tile",
                    "isLocked": True,
                    "measurements": {k: v for k, v in values.items() if math.isfinite(v)},
                },
            }
        )
    return {"type": "FeatureCollection", "features": features}


def write_geojson(path: str | Path, collection: Mapping[str, Any]) -> Path:
    """Write a FeatureCollection, whole or not at all."""
    path = Path(path)
    with replacing(path) as partial:
        partial.write_text(json.dumps(collection, allow_nan=False), encoding="utf-8")
    return path
