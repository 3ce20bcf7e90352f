"""Small, whole slides of many kinds, from which hostile ones are made."""

from __future__ import annotations

import functools
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numcodecs import Blosc
from numpy.typing import NDArray

from tests.conftest import SHARED, tissue_pixels
from tests.dicom_slides import jpeg_rgb, write_series
from tests.zarr_slides import write_ome_zarr

TILE = 128
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")
MPP = 0.5
APERIO = "Aperio Image Library v11.2.1\r\n{size} {note}|AppMag = 20|MPP = 0.5"
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image '
    'ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{width}" '
    'SizeY="{height}" SizeC="3" SizeZ="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5">'
    '<Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData/></Pixels></Image></OME>'
)


def write_all(folder: Path) -> list[Path]:
    """Write every kind of slide into `folder` and return them, then the real ones, if there are."""
    pixels = np.ascontiguousarray(tissue_pixels()[200:701, 400:1043])  # glass and tissue
    for name, write in KINDS.items():
        write(folder / name, pixels)
    real = (SHARED / "slides").rglob("*") if SHARED.is_dir() else ()
    sound = sorted(path for path in real if path.is_file() and "broken" not in path.parts)
    return [*(folder / name for name in KINDS), *sound]


def _levels(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [np.ascontiguousarray(pixels[::step, ::step]) for step in (1, 2, 4)]


def _write(
    path: Path,
    pixels: NDArray[np.uint8],
    *,
    sub_ifds: bool = False,
    descriptions: tuple[str | None, ...] = (None,) * 3,
    data: Callable[[NDArray[np.uint8]], Iterator[bytes]] | None = None,
    bigtiff: bool = False,
    **options: Any,
) -> None:
    """Write three levels; `data` gives the stored tiles of a level, encoded."""
    options = {"tile": (TILE, TILE), "photometric": "rgb", "metadata": None, **options}
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as tiff:
        for number, level in enumerate(_levels(pixels)):
            scale = 1e4 / (MPP * 2**number)
            tiff.write(
                data(level) if data else level,
                shape=level.shape,
                dtype=np.uint8,
                subfiletype=1 if number else 0,
                subifds=2 if sub_ifds and number == 0 else None,
                description=descriptions[number],
                resolution=(scale, scale),
                resolutionunit="CENTIMETER",
                **options,
            )


def _tiles(level: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for top in range(0, level.shape[0], TILE):
        for left in range(0, level.shape[1], TILE):
            tile = np.full((TILE, TILE, 3), 255, np.uint8)
            part = level[top : top + TILE, left : left + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def _jpeg(tile: NDArray[np.uint8], colour: str) -> bytes:
    return bytes(
        imagecodecs.jpeg8_encode(
            tile, level=80, colorspace="RGB", outcolorspace=colour, subsampling="444"
        )
    )


def split_tables(stream: bytes) -> tuple[bytes, bytes]:
    """Return a JPEG's tables (DQT, DHT) and what is left, each from SOI to EOI.

    TIFF Technical Note 2, "abbreviated" streams: how Aperio stores tiles.
    """
    tables, rest, place = b"", b"", 2
    while stream[place + 1] != 0xDA:  # start of scan
        end = place + 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
        if stream[place + 1] in (0xDB, 0xC4):
            tables += stream[place:end]
        else:
            rest += stream[place:end]
        place = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + stream[place:]


def _write_abbreviated(path: Path, pixels: NDArray[np.uint8], **options: Any) -> None:
    colour = "YCBCR" if options["photometric"] == "ycbcr" else "RGB"
    tables, _ = split_tables(_jpeg(pixels[:TILE, :TILE], colour))
    _write(
        path,
        pixels,
        data=lambda level: (split_tables(_jpeg(tile, colour))[1] for tile in _tiles(level)),
        compression="jpeg",
        jpegtables=tables,
        **options,
    )


def _write_aperio(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write the pages in Aperio's order: level 0, thumbnail, other levels, label, macro."""
    first, *others = _levels(pixels)
    tables, _ = split_tables(_jpeg(pixels[:TILE, :TILE], "RGB"))
    text = APERIO.format(size="643x501 [0,0 643x501]", note="(128x128) JPEG/RGB Q=80")
    with tifffile.TiffWriter(path) as tiff:

        def write_level(level: NDArray[np.uint8], **options: Any) -> None:
            tiff.write(
                (split_tables(_jpeg(tile, "RGB"))[1] for tile in _tiles(level)),
                shape=level.shape,
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                jpegtables=tables,
                description=text,
                metadata=None,
                **options,
            )

        def write_image(image: NDArray[np.uint8], description: str, **options: Any) -> None:
            tiff.write(
                image,
                photometric="rgb",
                rowsperstrip=16,
                description=description,
                metadata=None,
                **options,
            )

        write_level(first)
        write_image(others[-1], text, compression="jpeg")
        for level in others:
            write_level(level)
        for name, kind in (("label", 1), ("macro", 9)):
            note = f"Aperio Image Library v11.2.1 \n{name} 96x64"
            write_image(pixels[:64, :96], note, compression="lzw", subfiletype=kind)


def _write_j2k(path: Path, pixels: NDArray[np.uint8]) -> None:
    _write(
        path,
        pixels,
        data=lambda level: (
            imagecodecs.jpeg2k_encode(tile, level=40, codecformat="j2k", reversible=False)
            for tile in _tiles(level)
        ),
        compression=33005,
        descriptions=(APERIO.format(size="643x501 [0,0 643x501]", note="(128x128) J2K"),) * 3,
    )


def _write_ome(path: Path, pixels: NDArray[np.uint8]) -> None:
    text = OME.format(width=pixels.shape[1], height=pixels.shape[0])
    _write(
        path, pixels, sub_ifds=True, descriptions=(text, None, None), compression="adobe_deflate"
    )


def _write_dicom(path: Path, pixels: NDArray[np.uint8]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        uids = {key: f"1.2.3.{number}" for number, key in enumerate(UIDS)}
        [written] = write_series(  # in colours that OpenSlide reads too
            Path(folder), [pixels], encode=jpeg_rgb, photometric="RGB", tile=(TILE, TILE), **uids
        )
        shutil.copy(written, path)


def _write_zarr(path: Path, pixels: NDArray[np.uint8], **options: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path, "w") as archive:
        write_ome_zarr(folder, _levels(pixels), chunk=TILE, **options)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                name = zipfile.ZipInfo(file.relative_to(folder).as_posix())  # of no date
                archive.writestr(name, file.read_bytes())


def _simple(**options: Any) -> Callable[[Path, NDArray[np.uint8]], None]:
    return lambda path, pixels: _write(path, pixels, **options)


KINDS: dict[str, Callable[[Path, NDArray[np.uint8]], None]] = {
    "jpeg-tables.tif": lambda path, pixels: _write_abbreviated(path, pixels, photometric="ycbcr"),
    "aperio.svs": _write_aperio,
    "aperio-j2k.svs": _write_j2k,
    "deflate.tif": _simple(compression="adobe_deflate", predictor=True),
    "lzw.tif": _simple(compression="lzw"),
    "zstd.tif": _simple(compression="zstd"),
    "webp.tif": _simple(compression="webp"),
    "raw.tif": _simple(compression=None),
    "stripes.tif": _simple(compression="adobe_deflate", tile=None, rowsperstrip=32),
    "big.tif": _simple(compression="jpeg", bigtiff=True),
    "pyramid.ome.tif": _write_ome,
    "slide.dcm": _write_dicom,
    "sharded.ozx": functools.partial(_write_zarr, shard=2 * TILE),
    "blosc.ozx": functools.partial(_write_zarr, version="0.4", compressors=Blosc()),
}
"""Every kind that is generated, and how."""
TIFF_KINDS = tuple(name for name in KINDS if not name.endswith((".dcm", ".ozx")))
