"""Every source of the pixel size, in slides made for it: each reader collects the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.conftest import coded_pixels
from tiling import open_slide
from tiling.errors import ConflictingMppError, ImplausibleMppError, MissingMppError

READERS = ("tiff", "openslide", "tiffslide")
APERIO = "Aperio Image Library v11.2.1 \r\n300x200 [0,0 300x200] (240x240) JPEG/RGB Q=30"
PHILIPS = """<?xml version="1.0" encoding="UTF-8" ?>
<DataObject ObjectType="DPUfsImport"><Attribute Name="PIM_DP_SCANNED_IMAGES"><Array>
<DataObject ObjectType="DPScannedImage">
<Attribute Name="PIM_DP_IMAGE_TYPE" PMSVR="IString">WSI</Attribute>
<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>
<DataObject ObjectType="PixelDataRepresentation">
<Attribute Name="DICOM_PIXEL_SPACING" PMSVR="IDoubleArray">&quot;0.0005&quot; &quot;0.00025&quot;
</Attribute></DataObject></Array></Attribute></DataObject></Array></Attribute></DataObject>"""


def write(path: Path, *, ppcm: tuple[float, float] | None = None, dpi: float | None = None,
          **options: Any) -> Path:  # fmt: skip
    """Write a tiled TIFF of 300 x 200 px that states what it is told."""
    if ppcm is not None:
        options |= {"resolution": ppcm, "resolutionunit": "CENTIMETER"}
    elif dpi is not None:
        options |= {"resolution": (dpi, dpi), "resolutionunit": "INCH"}
    with tifffile.TiffWriter(path, ome="ome" in path.name) as tiff:
        tiff.write(
            coded_pixels(300, 200),
            tile=(128, 128),
            photometric="rgb",
            compression="adobe_deflate",
            **{"metadata": None, **options},
        )
    return path


def ome(x: float, y: float, unit: str) -> dict[str, Any]:
    return {"axes": "YXS", "PhysicalSizeX": x, "PhysicalSizeXUnit": unit,
            "PhysicalSizeY": y, "PhysicalSizeYUnit": unit}  # fmt: skip


def sources(path: Path, reader: str) -> dict[str, tuple[float, float]]:
    """What is stated, without what libraries make of it."""
    with open_slide(path, reader=reader) as slide:
        return {
            c.source: (round(c.mpp[0], 6), round(c.mpp[1], 6))
            for c in slide.resolution.candidates
            if c.source not in ("openslide.mpp", "tiffslide.mpp")
        }


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("name", "options", "stated"),
    [
        ("a.ome.tif", {"metadata": ome(250, 500, "nm")}, {"ome.PhysicalSize": (0.25, 0.5)}),
        ("a.ome.tif", {"metadata": ome(0.00025, 0.0005, "mm")}, {"ome.PhysicalSize": (0.25, 0.5)}),
        ("a.ome.tif", {"metadata": ome(0.25, 0.25, "µm"), "ppcm": (39_000, 39_000)},
         {"ome.PhysicalSize": (0.25, 0.25), "tiff.XResolution": (0.25641, 0.25641)}),
        ("a.tif", {"ppcm": (40_000, 20_000)}, {"tiff.XResolution": (0.25, 0.5)}),
        ("a.tif", {"dpi": 50_800}, {"tiff.XResolution": (0.5, 0.5)}),
        ("a.svs", {"description": f"{APERIO}|AppMag = 20|MPP = 0.4990", "dpi": 72},
         {"aperio.MPP": (0.499, 0.499), "tiff.XResolution": (352.777778, 352.777778)}),
    ],
)  # fmt: skip
def test_every_reader_collects_every_source(
    tmp_path: Path, reader: str, name: str, options: dict[str, Any],
    stated: dict[str, tuple[float, float]],
) -> None:  # fmt: skip
    path = write(tmp_path / name, **options)
    if reader == "tiffslide" and name == "a.svs":
        stated = {k: v for k, v in stated.items() if k == "aperio.MPP"}  # it drops SVS's tags
    assert sources(path, reader) == stated


@pytest.mark.parametrize("reader", ["tiff", "tiffslide"])  # OpenSlide drops tags without a unit
@pytest.mark.parametrize(("unit", "mpp"), [("micron", (0.25, 0.5)), ("\\u00B5m", (0.25, 0.5)),
                                           ("mm", (250, 500)), ("pixel", None)])  # fmt: skip
def test_imagej_gives_the_unit_in_its_description(
    tmp_path: Path, reader: str, unit: str, mpp: tuple[float, float] | None
) -> None:
    text = f"ImageJ=1.53\nunit={unit}\n"
    path = write(tmp_path / "a.tif", description=text, resolution=(4, 2), resolutionunit="NONE")
    assert sources(path, reader) == ({} if mpp is None else {"imagej.unit": mpp})


def test_philips_spacing_is_rows_first(tmp_path: Path) -> None:
    """DICOM_PIXEL_SPACING: between rows (y), then between columns (x), mm."""
    path = write(tmp_path / "a.tiff", description=PHILIPS, software="Philips DP v1.0")
    assert sources(path, "tiff") == {"philips.PixelSpacing": (0.25, 0.5)}


def test_which_source_is_believed_does_not_depend_on_the_reader(tmp_path: Path) -> None:
    """OpenSlide makes its own value of the tags, which differ from the OME-XML by 2.6 %."""
    path = write(tmp_path / "a.ome.tif", metadata=ome(0.25, 0.25, "µm"), ppcm=(39_000, 39_000))
    for reader in READERS:
        with open_slide(path, reader=reader) as slide:
            assert slide.require_mpp() == (0.25, 0.25)
            assert slide.resolution.source == "ome.PhysicalSize"


@pytest.mark.parametrize(("ppcm", "conflict"), [(42_000, False), (42_200, True), (80_000, True)])
def test_two_plausible_sources_may_differ_by_five_percent(
    tmp_path: Path, ppcm: float, conflict: bool
) -> None:
    """0.25 µm against 0.2381 (4.8 %) and 0.2370 (5.2 %)."""
    path = write(tmp_path / "a.ome.tif", metadata=ome(0.25, 0.25, "µm"), ppcm=(ppcm, ppcm))
    with open_slide(path) as slide:
        assert slide.mpp == (0.25, 0.25)
        if conflict:
            with pytest.raises(ConflictingMppError, match="contradicts tiff.XResolution"):
                slide.require_mpp()
        else:
            assert slide.require_mpp() == (0.25, 0.25)


def test_a_placeholder_of_72_dpi_is_ignored_beside_a_plausible_source_and_refused_alone(
    tmp_path: Path,
) -> None:
    beside = write(tmp_path / "a.ome.tif", metadata=ome(0.25, 0.25, "µm"), dpi=72)
    with open_slide(beside) as slide:
        assert slide.require_mpp() == (0.25, 0.25)
        assert (
            "tiff.XResolution = 352.778 x 352.778 µm is implausible and ignored" in slide.warnings
        )
    with (
        open_slide(write(tmp_path / "b.tif", dpi=72)) as slide,
        pytest.raises(ImplausibleMppError, match=r"b\.tif: tiff\.XResolution = 352\.778"),
    ):
        slide.require_mpp()


@pytest.mark.parametrize("reader", READERS)
def test_an_objective_alone_is_no_pixel_size(tmp_path: Path, reader: str) -> None:
    path = write(tmp_path / "a.svs", description=f"{APERIO}|AppMag = 40")
    with open_slide(path, reader=reader) as slide:
        assert slide.mpp is None
        assert slide.warnings == (
            "no mpp in the metadata (a 40x objective is stated, which is not a pixel size)",
        )
        with pytest.raises(MissingMppError, match="a 40x objective is stated.*--slide-mpp"):
            slide.require_mpp()


def test_the_resolution_is_that_of_the_slide_and_not_of_a_thumbnail_before_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        small = np.full((40, 60, 3), 200, np.uint8)
        tiff.write(small, photometric="rgb", resolution=(72, 72), metadata=None)
        tiff.write(
            coded_pixels(300, 200),
            tile=(128, 128),
            photometric="rgb",
            resolution=(40_000, 40_000),
            resolutionunit="CENTIMETER",
            metadata=None,
        )
    assert sources(path, "tiff") == {"tiff.XResolution": (0.25, 0.25)}


def test_of_several_images_in_ome_xml_the_slides_own_counts(tmp_path: Path) -> None:
    """A label that comes first has another pixel size; its objective is another one, too."""
    xml = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
    <Instrument ID="I:0"><Objective ID="O:0" NominalMagnification="1"/>
    <Objective ID="O:1" NominalMagnification="20"/></Instrument>
    <Image ID="Image:0"><ObjectiveSettings ID="O:0"/>
    <Pixels SizeX="30" SizeY="20" PhysicalSizeX="9" PhysicalSizeY="9"/></Image>
    <Image ID="Image:1"><ObjectiveSettings ID="O:1"/>
    <Pixels SizeX="300" SizeY="200" PhysicalSizeX="0.5" PhysicalSizeY="0.5"/></Image></OME>"""
    path = write(tmp_path / "a.tif", description=xml)
    for reader in ("tiff", "openslide"):
        assert sources(path, reader) == {"ome.PhysicalSize": (0.5, 0.5)}
        with open_slide(path, reader=reader) as slide:
            assert slide.properties["ome.NominalMagnification"] == "20"


def test_no_unit_of_resolution_means_inch(tmp_path: Path) -> None:
    """TIFF 6.0, section 8: ResolutionUnit defaults to 2."""
    from tiling.resolution import mpp_candidates

    tags = {"tiff.XResolution": "50800", "tiff.YResolution": "25400"}
    assert [c.mpp for c in mpp_candidates(tags)] == [(0.5, 1.0)]
    assert mpp_candidates(tags | {"tiff.ResolutionUnit": "none"}) == ()
