"""Which pages of a TIFF are a slide's levels, which are its label or macro, and what it states."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError

import tifffile
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from tiling.readers.base import UnsupportedSlideError

NDPI_TAG = 65420
OTHER_READERS = {
    "leica-microsystems.com/scn": "Leica SCN",
    "iScan": "Ventana BIF",
    "MedScan": "Trestle",
}
"""What marks formats whose tiles overlap or lie in several regions: OpenSlide knows their rules."""
SHAPE_TOLERANCE = 0.05
PROPERTY_TAGS = ("Make", "Model", "Software", "DateTime", "XResolution", "YResolution",
                 "ResolutionUnit", "Artist", "HostComputer")  # fmt: skip


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
    properties = _tag_properties(pages[0])
    base = _base_page(pages)
    reduced = [p for p in base.pages or () if isinstance(p, tifffile.TiffPage)]
    levels = _pyramid(base, reduced or [p for p in pages if p.is_tiled])
    if description.startswith("Aperio"):
        vendor = "aperio"
        properties |= _aperio_properties(description)
    elif properties.get("tiff.Software", "").startswith("Philips"):
        vendor = "philips"
        root = _parse_xml(description)
        properties |= _philips_properties(root)
        levels = _philips_levels(pages, levels[0], _philips_spacings(root))
    elif "<OME" in description:
        vendor = "ome-tiff"
        properties |= _ome_properties(_parse_xml(description))
    else:
        vendor = "generic-tiff"
    return TiffLayout(vendor, tuple(levels), _associated(pages, vendor), properties)


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
        (width, height), (base_width, base_height) = _size(page), _size(base)
        if not (0 < width < levels[-1].size[0] and 0 < height <= levels[-1].size[1]):
            continue
        expected = base_height * width / base_width
        if abs(height - expected) <= max(1.0, SHAPE_TOLERANCE * expected):
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


def _tag_properties(page: tifffile.TiffPage) -> dict[str, str]:
    found = {}
    for name in PROPERTY_TAGS:
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


def _aperio_properties(description: str) -> dict[str, str]:
    """Return ``aperio.<key>`` of "...|AppMag = 20|MPP = 0.4990|..."."""
    pairs = (part.partition("=") for part in description.split("|")[1:])
    return {f"aperio.{key.strip()}": value.strip() for key, sep, value in pairs if sep}


def _parse_xml(text: str) -> Element | None:
    """Return the root of untrusted XML; None where it is malformed or declares entities."""
    try:
        root: Element = fromstring(text.encode(), forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError):
        return None
    return root


def _ome_properties(root: Element | None) -> dict[str, str]:
    if root is None:
        return {}
    pixels = root.find(".//{*}Pixels")
    objective = root.find(".//{*}Objective")
    found = {}
    for element, keys in (
        (pixels, ("PhysicalSizeX", "PhysicalSizeXUnit", "PhysicalSizeY", "PhysicalSizeYUnit")),
        (objective, ("NominalMagnification",)),
    ):
        for key in keys:
            value = None if element is None else element.get(key)
            if value:
                found[f"ome.{key}"] = value
    return found


def _philips_spacings(root: Element | None) -> list[tuple[float, float]]:
    """Return (x, y) pixel spacing in mm of each level that the XML states."""
    found = []
    for image in [] if root is None else root.iter("DataObject"):
        kind = image.find("Attribute[@Name='PIM_DP_IMAGE_TYPE']")
        if kind is None or (kind.text or "").strip() != "WSI":
            continue
        for spacing in image.iterfind(
            ".//DataObject[@ObjectType='PixelDataRepresentation']"
            "/Attribute[@Name='DICOM_PIXEL_SPACING']"
        ):
            numbers = re.findall(r"[\d.eE+-]+", spacing.text or "")
            if len(numbers) == 2:
                # DICOM's order: between rows, then between columns.
                found.append((float(numbers[1]), float(numbers[0])))
    return found


def _philips_properties(root: Element | None) -> dict[str, str]:
    spacings = _philips_spacings(root)
    if not spacings:
        return {}
    x, y = spacings[0]
    return {"philips.PixelSpacingX": f"{x:.10g}", "philips.PixelSpacingY": f"{y:.10g}"}


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
