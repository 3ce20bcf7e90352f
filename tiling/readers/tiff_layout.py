"""Which pages of a TIFF are a slide's levels, which are its label or macro, and what it states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import tifffile

from tiling.geometry import is_reduced
from tiling.readers.base import UnsupportedSlideError
from tiling.readers.descriptions import description_properties, parse_xml, philips_spacings

NDPI_TAG = 65420
ICC_TAG = 34675
OTHER_READERS = {
    "leica-microsystems.com/scn": "Leica SCN",
    "iScan": "Ventana BIF",
    "MedScan": "Trestle",
}
"""What marks formats whose tiles overlap or lie in several regions: OpenSlide knows their rules."""
PROPERTY_TAGS = ("Make", "Model", "Software", "DateTime", "Artist", "HostComputer")
RESOLUTION_TAGS = ("XResolution", "YResolution", "ResolutionUnit")


@dataclass(frozen=True, slots=True)
class TiffLevel:
    """A level's (width, height), which may be less than the page's, and its page."""

    size: tuple[int, int]
    page: tifffile.TiffPage


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """What a TIFF slide consists of; `associated` gives the page number of each image by name."""

    vendor: str
    levels: tuple[TiffLevel, ...]
    associated: dict[str, int]
    properties: dict[str, str]
    icc_profile: bytes | None = None


def read_layout(tiff: tifffile.TiffFile) -> TiffLayout:
    """Return the layout of an open TIFF.

    Raises
    ------
    UnsupportedSlideError
        Another reader knows the format better, or there is no image.
    """
    pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
    if not pages:
        raise UnsupportedSlideError("tiff: no page")
    description = str(pages[0].description or "")
    _refuse_other_formats(pages, description)
    base = _base_page(pages)
    # The first page may be a thumbnail, whose resolution is not the slide's.
    properties = _tag_properties(pages[0], PROPERTY_TAGS) | _tag_properties(base, RESOLUTION_TAGS)
    properties |= description_properties(description, _size(base))
    reduced = [p for p in base.pages or () if isinstance(p, tifffile.TiffPage)]
    levels = _pyramid(base, reduced or [p for p in pages if p.is_tiled])
    if description.startswith("Aperio"):
        vendor = "aperio"
    elif properties.get("tiff.Software", "").startswith("Philips"):
        vendor = "philips"
        levels = _philips_levels(pages, levels[0], philips_spacings(parse_xml(description)))
    elif "<OME" in description:
        vendor = "ome-tiff"
    else:
        vendor = "generic-tiff"
    icc = base.tags.get(ICC_TAG)
    return TiffLayout(
        vendor,
        tuple(levels),
        _associated(pages, vendor),
        properties,
        bytes(icc.value) if icc and isinstance(icc.value, bytes) else None,
    )


def _refuse_other_formats(pages: list[tifffile.TiffPage], description: str) -> None:
    if NDPI_TAG in pages[0].tags:
        raise UnsupportedSlideError("tiff: Hamamatsu NDPI is read by OpenSlide")
    software = pages[0].tags.get("Software")
    xmp = pages[0].tags.get(700)
    text = f"{description[:4096]} {software and software.value} {xmp and xmp.value!r}"
    for mark, name in OTHER_READERS.items():
        if mark in text:
            raise UnsupportedSlideError(f"tiff: {name} is read by OpenSlide")


def _base_page(pages: list[tifffile.TiffPage]) -> tifffile.TiffPage:
    tiled = [page for page in pages if page.is_tiled]
    return max(tiled or pages[:1], key=lambda page: int(page.imagewidth) * int(page.imagelength))


def _pyramid(base: tifffile.TiffPage, others: Iterable[tifffile.TiffPage]) -> list[TiffLevel]:
    """Return `base` and those of `others` that are smaller pictures of the same shape."""
    levels = [TiffLevel(_size(base), base)]
    for page in sorted(others, key=_size, reverse=True):
        if is_reduced(_size(page), base=_size(base), last=levels[-1].size):
            levels.append(TiffLevel(_size(page), page))
    return levels


def _size(page: tifffile.TiffPage) -> tuple[int, int]:
    return int(page.imagewidth), int(page.imagelength)


def _associated(pages: list[tifffile.TiffPage], vendor: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, page in enumerate(pages):
        if page.is_tiled or (vendor not in ("aperio", "philips") and number == 0):
            continue
        text = str(page.description or "")
        if vendor == "aperio" and number == 1:
            found.setdefault("thumbnail", number)
        elif vendor == "aperio":
            # "Aperio Image Library ...\r\nlabel 387x463": the second line names the image.
            words = text.partition("\n")[2].split()
            if words and words[0] in ("label", "macro"):
                found.setdefault(words[0], number)
        elif vendor == "philips" and text.lower().startswith(("label", "macro")):
            found.setdefault(text.split()[0].lower(), number)
    return found


def _tag_properties(page: tifffile.TiffPage, names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        tag = page.tags.get(name)
        if tag is None:
            continue
        value = tag.value
        if name == "ResolutionUnit":
            value = {1: "none", 2: "inch", 3: "centimeter"}.get(int(value), "unknown")
        elif isinstance(value, tuple) and len(value) == 2:
            value = f"{value[0] / value[1]:.10g}" if value[1] else ""
        found[f"tiff.{name}"] = str(value)
    return found


def _philips_levels(
    pages: list[tifffile.TiffPage], base: TiffLevel, spacings: list[tuple[float, float]]
) -> list[TiffLevel]:
    """Return the levels without the padding to whole tiles that Philips counts as image.

    The tiled pages are the levels, in the order of the XML's pixel spacings; their own sizes say
    little, since a small level is mostly padding. A page without a spacing is left out: its scale
    is not known.
    """
    tiled = [page for page in pages if page.is_tiled]
    if not spacings or tiled[:1] != [base.page]:
        return [base]
    levels = [base]
    for page, (x, y) in zip(tiled[1:], spacings[1:], strict=False):
        size = int(base.size[0] * spacings[0][0] / x), int(base.size[1] * spacings[0][1] / y)
        if 0 < size[0] < levels[-1].size[0] and 0 < size[1] <= levels[-1].size[1]:
            levels.append(
                TiffLevel((min(size[0], _size(page)[0]), min(size[1], _size(page)[1])), page)
            )
    return levels
