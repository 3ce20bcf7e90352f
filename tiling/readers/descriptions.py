"""What the text in a slide's ImageDescription states of pixel size and objective.

Every reader takes it from here, so that one file has the same sources whichever reader opens it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

DESCRIPTION_KEYS = ("tiff.ImageDescription", "openslide.comment", "tiffslide.comment")
_SIZE_KEYS = ("PhysicalSizeX", "PhysicalSizeXUnit", "PhysicalSizeY", "PhysicalSizeYUnit")


def with_description(properties: Mapping[str, str], size: tuple[int, int]) -> dict[str, str]:
    """Return a reader's `properties` and what the description among them states beside them.

    Parameters
    ----------
    size
        (width, height) of level 0: tells which image of an OME-XML is the slide.
    """
    text = next((properties[key] for key in DESCRIPTION_KEYS if properties.get(key)), "")
    return description_properties(text, size) | dict(properties)


def description_properties(text: str, size: tuple[int, int]) -> dict[str, str]:
    r"""Return what a description states, as `aperio.*`, `philips.*`, `ome.*` or `imagej.*`.

    Examples
    --------
    >>> description_properties("Aperio Image\r\n10x10|AppMag = 20|MPP = 0.4990", (10, 10))
    {'aperio.AppMag': '20', 'aperio.MPP': '0.4990'}
    >>> description_properties("ImageJ=1.53\nunit=micron\nloop=false", (10, 10))
    {'imagej.unit': 'micron'}
    """
    if text.startswith("Aperio"):
        return _aperio_properties(text)
    if text.startswith("ImageJ="):
        found = re.search(r"^unit=(.+)$", text, re.MULTILINE)
        return {"imagej.unit": found[1].strip()} if found else {}
    if "<OME" in text:
        return ome_properties(parse_xml(text), size)
    return _philips_properties(parse_xml(text)) if "DPUfsImport" in text else {}


def parse_xml(text: str) -> Element | None:
    """Return the root of untrusted XML; None where it is malformed or declares entities."""
    try:
        root: Element = fromstring(text.encode(), forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError):
        return None
    return root


def _aperio_properties(text: str) -> dict[str, str]:
    """Return ``aperio.<key>`` of "...|AppMag = 20|MPP = 0.4990|..."."""
    pairs = (part.partition("=") for part in text.split("|")[1:])
    return {f"aperio.{key.strip()}": value.strip() for key, sep, value in pairs if sep}


def ome_properties(root: Element | None, size: tuple[int, int]) -> dict[str, str]:
    """Return pixel size and magnification of the image of that size in OME-XML, else the first."""
    images = [] if root is None else root.findall("{*}Image")
    if root is None or not images:
        return {}
    wanted = tuple(str(length) for length in size)

    def is_the_slide(image: Element) -> bool:
        pixels = image.find("{*}Pixels")
        return pixels is not None and (pixels.get("SizeX"), pixels.get("SizeY")) == wanted

    image = next((one for one in images if is_the_slide(one)), images[0])
    pixels = image.find("{*}Pixels")
    found = {} if pixels is None else {f"ome.{k}": pixels.get(k, "") for k in _SIZE_KEYS}
    settings = image.find("{*}ObjectiveSettings")
    wanted_id = None if settings is None else settings.get("ID")
    objectives = root.findall(".//{*}Objective")
    objective = next((o for o in objectives if o.get("ID") == wanted_id), None)
    if objective is None and len(objectives) == 1:
        [objective] = objectives
    if objective is not None:
        found["ome.NominalMagnification"] = objective.get("NominalMagnification", "")
    return {key: value for key, value in found.items() if value}


def philips_spacings(root: Element | None) -> list[tuple[float, float]]:
    """Return (x, y) pixel spacing in mm of each level that Philips's XML states."""
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
    spacings = philips_spacings(root)
    if not spacings:
        return {}
    x, y = spacings[0]
    return {"philips.PixelSpacingX": f"{x:.10g}", "philips.PixelSpacingY": f"{y:.10g}"}
