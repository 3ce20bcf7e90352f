"""What `wsi info` tells about a slide."""

from __future__ import annotations

from typing import Any

from tiling.resolution import objective_power
from tiling.slide import open_slide
from tiling.slide_folder import slide_name
from tiling.urls import public_url


def slide_info(path: str, *, reader: str = "auto", mpp: float | None = None) -> dict[str, Any]:
    """Return size, levels and pixel size as JSON values; an unknown pixel size is None.

    Raises
    ------
    SlideOpenError
        No such file, or no reader opens it.
    """
    with open_slide(path, reader=reader, mpp=mpp) as slide:
        resolution = slide.resolution
        return {
            "slide_id": slide_name(path),
            "path": public_url(path),
            "reader": slide.reader,
            "reader_version": slide.reader_version,
            "decoder": slide.decoder,
            "vendor": slide.vendor,
            "width": slide.size[0],
            "height": slide.size[1],
            "mpp_x": None if resolution.mpp is None else resolution.mpp[0],
            "mpp_y": None if resolution.mpp is None else resolution.mpp[1],
            "mpp_source": resolution.source or None,
            "objective_power": objective_power(slide.properties),
            "mpp_candidates": [str(candidate) for candidate in resolution.candidates],
            "levels": [
                {"width": width, "height": height, "downsample": downsample}
                for (width, height), downsample in zip(
                    slide.level_sizes, slide.level_downsamples, strict=True
                )
            ],
            "associated_images": list(slide.associated_names),
            "refused_by": dict(slide.refusals),
            "warnings": list(slide.warnings),
        }
