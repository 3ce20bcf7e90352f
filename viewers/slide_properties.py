"""What a window says of a slide: how it was scanned, never whom it is from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from viewers.measures import written_length

if TYPE_CHECKING:
    from tiling.slide import Slide

STATED = (
    ("Objective", ("openslide.objective-power", "aperio.AppMag", "ome.NominalMagnification")),
    ("Scanner", ("tiff.Make", "dicom.Manufacturer", "hamamatsu.Product")),
    ("Scanner model", ("tiff.Model", "dicom.ManufacturerModelName", "aperio.ScanScope ID")),
    ("Software", ("tiff.Software",)),
    ("Compression quality", ("aperio.JPEG Quality", "aperio.Quality")),
)
"""What is taken over from the file. Nothing else is: what scanners write may name the patient,
the case, the barcode, the day or who scanned it."""


def slide_properties(slide: Slide) -> list[tuple[str, str]]:
    """Return names and values to show of a slide; no label, barcode, name or date among them."""
    width, height = slide.size
    rows = [("File", slide.name), ("Size", f"{width} x {height} px")]
    resolution = slide.resolution
    if resolution.mpp is None:
        rows.append(("Pixel size", "not stated"))
    else:
        x, y = resolution.mpp
        size = f"{x:.4g} µm" if x == y else f"{x:.4g} x {y:.4g} µm"
        area = f"{written_length(width * x)} x {written_length(height * y)}"
        rows += [("Pixel size", f"{size} ({resolution.source})"), ("Scanned area", area)]
    stated = slide.properties
    for name, keys in STATED:
        found = next((stated[key] for key in keys if stated.get(key)), None)
        if found:
            rows.append((name, found))
    levels = ", ".join(f"{downsample:.4g}" for downsample in slide.level_downsamples)
    rows += [("Format", slide.vendor or "unknown"), ("Levels", levels)]
    rows.append(("Colour profile", "ICC" if slide.icc_profile else "none"))
    rows.append(("Read by", f"{slide.reader_version}; {slide.decoder}"))
    rows += [("Warning", text) for text in slide.warnings]
    return rows
