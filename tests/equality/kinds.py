"""One small slide of every kind of TIFF that scanners and converters write, made on the spot.

Every slide holds the same tissue, of odd size, in two levels, the second with its last pixels
dropped; tiles at the edges are padded with black.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from tiling.samples import mosaic, sample_fields

Pixels = NDArray[np.uint8]
Encode = Callable[[Pixels], bytes]

SIZE = (397, 301)
TILE_PX = 64
MPP = 0.25
DOWNSAMPLE = 4
EMPTY = 5
"""Which stored tile of each level a sparse slide leaves out."""
APERIO = "Aperio Image Library v12.0.15\r\n397x301 [0,0 397x301] (64x64)|AppMag = 40|MPP = 0.2500"
SCN = "http://www.leica-microsystems.com/scn/2010/10/01"
AREA = (500, 300)
AREA_SIZE = (396, 300)
"""x0, y0 and size of the scanned area on a Leica slide, which is larger."""


@functools.cache
def tissue() -> Pixels:
    """Return level 0 of every slide here."""
    return mosaic(np.random.default_rng(3), sample_fields()[1], *SIZE)


def shrunk(pixels: Pixels, factor: int = DOWNSAMPLE) -> Pixels:
    """Return the mean of blocks of `factor` px, whole blocks only, as scanners write levels."""
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    whole = pixels[: height * factor, : width * factor]
    blocks = whole.reshape(height, factor, width, factor, *pixels.shape[2:])
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


@dataclass(frozen=True)
class Kind:
    """A kind of slide.

    Attributes
    ----------
    write
        Writes it to a path.
    suffix
        Of its file name.
    levels
        What is stored, as it should be read; None where the compression is lossy.
    opens
        Readers that must open it.
    differs
        Reader to the grey levels by which it may differ from the others, and why.
    """

    write: Callable[[Path], None]
    opens: tuple[str, ...] = ("tiff", "openslide", "tiffslide")
    suffix: str = ".tif"
    levels: tuple[Pixels, ...] | None = None
    differs: dict[str, tuple[int, str]] = field(default_factory=dict)


def stored_tiles(pixels: Pixels) -> Iterator[Pixels]:
    """Yield a level's tiles row by row, padded with black at its ends."""
    for top in range(0, pixels.shape[0], TILE_PX):
        for left in range(0, pixels.shape[1], TILE_PX):
            tile = np.zeros((TILE_PX, TILE_PX, *pixels.shape[2:]), np.uint8)
            part = pixels[top : top + TILE_PX, left : left + TILE_PX]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def pyramid(
    path: Path,
    levels: tuple[Pixels, ...],
    *,
    encode: Encode | None = None,
    sparse: bool = False,
    writer: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Write levels as TIFF pages of tiles, which `encode` compresses if tifffile does not."""
    with tifffile.TiffWriter(path, **(writer or {})) as tiff:
        for number, level in enumerate(levels):
            data: Any = level
            if encode is not None:
                data = iter(
                    b"" if sparse and index == EMPTY else encode(tile)
                    for index, tile in enumerate(stored_tiles(level))
                )
            tiff.write(
                data, shape=level.shape, dtype=np.uint8, metadata=None,
                subfiletype=1 if number else 0, resolutionunit="CENTIMETER",
                resolution=(1e4 / MPP / DOWNSAMPLE**number,) * 2,
                **{"tile": (TILE_PX, TILE_PX), "photometric": "rgb", **options},
            )  # fmt: skip


def colour_levels() -> tuple[Pixels, ...]:
    return tissue(), shrunk(tissue())


def jpeg(tile: Pixels, *, subsampling: tuple[int, int] = (1, 1), rgb: bool = False) -> bytes:
    """Return a whole JPEG stream, its colours as YCbCr or, as Aperio's, as RGB."""
    stream: bytes = imagecodecs.jpeg8_encode(
        tile, level=85, colorspace="RGB", outcolorspace="RGB" if rgb else "YCBCR",
        subsampling=subsampling,
    )  # fmt: skip
    return stream


def without_tables(stream: bytes) -> tuple[bytes, bytes]:
    """Return a JPEG stream's tables, as the TIFF's tag holds them, and what is left for a tile.

    TIFF Technical Note 2: DQT and DHT go to the tag; JFIF and Adobe markers do not belong.
    """
    tables, rest, at = b"", b"", 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if stream[at + 1] in (0xDB, 0xC4):
            tables += stream[at:end]
        elif stream[at + 1] not in (0xE0, 0xEE):
            rest += stream[at:end]
        at = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + stream[at:]


def _jpeg_kind(
    *, subsampling: tuple[int, int] = (1, 1), rgb: bool = False, abbreviated: bool = False,
    suffix: str = ".tif", sparse: bool = False, opens: tuple[str, ...] | None = None,
    writer: dict[str, Any] | None = None, **more: Any,
) -> Kind:  # fmt: skip
    encode = functools.partial(jpeg, subsampling=subsampling, rgb=rgb)
    options: dict[str, Any] = {"compression": "jpeg", "photometric": "ycbcr"}
    if rgb:
        options |= {"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}}
    elif not rgb:
        options["subsampling"] = subsampling
    if abbreviated:
        options["jpegtables"] = without_tables(encode(tissue()[:TILE_PX, :TILE_PX]))[0]

    def write(path: Path) -> None:
        pyramid(
            path, colour_levels(), sparse=sparse, writer=writer,
            encode=(lambda t: without_tables(encode(t))[1]) if abbreviated else encode,
            **options, **more,
        )  # fmt: skip

    return Kind(write, suffix=suffix, **({} if opens is None else {"opens": opens}))


def _lossless(
    levels: tuple[Pixels, ...] | None = None,
    *,
    stored: tuple[Pixels, ...] | None = None,
    opens: tuple[str, ...] = Kind.opens,
    suffix: str = ".tif",
    differs: dict[str, tuple[int, str]] | None = None,
    **options: Any,
) -> Kind:
    seen = levels or colour_levels()
    return Kind(
        lambda path: pyramid(path, stored or seen, **options),
        opens, suffix, seen, differs or {},
    )  # fmt: skip


def _grey() -> tuple[Pixels, ...]:
    return tuple(np.rint(level.mean(axis=2)).astype(np.uint8) for level in colour_levels())


def _as_rgb(levels: tuple[Pixels, ...]) -> tuple[Pixels, ...]:
    return tuple(level[..., None].repeat(3, axis=2) for level in levels)


def _translucent() -> tuple[tuple[Pixels, ...], tuple[Pixels, ...]]:
    """Return levels with a clear and a half clear part, and how they look on white."""
    stored, seen = [], []
    for level in colour_levels():
        alpha = np.full((*level.shape[:2], 1), 255, np.uint8)
        alpha[10:20, 10:30], alpha[20:40, 10:30] = 0, 128
        stored.append(np.concatenate([level, alpha], axis=2))
        share = alpha / 255
        seen.append(np.rint(level * share + 255 * (1 - share)).astype(np.uint8))
    return tuple(stored), tuple(seen)


def _sparse_lossless() -> Kind:
    seen = []
    for level in colour_levels():
        columns = -(-level.shape[1] // TILE_PX)
        top, left = EMPTY // columns * TILE_PX, EMPTY % columns * TILE_PX
        painted = level.copy()
        painted[top : top + TILE_PX, left : left + TILE_PX] = 255
        seen.append(painted)
    return Kind(
        lambda path: pyramid(
            path, colour_levels(), sparse=True, compression="adobe_deflate",
            encode=lambda tile: zlib.compress(tile.tobytes()),
        ),
        ("tiff", "openslide"), levels=tuple(seen),
    )  # fmt: skip


def jpeg2000(tile: Pixels, *, ycbcr: bool) -> bytes:
    """Return a lossless codestream, its colours stored as they are or as YCbCr (ITU-T T.871)."""
    if ycbcr:
        matrix = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5],
                           [0.5, -0.418688, -0.081312]])  # fmt: skip
        tile = np.clip(np.rint(tile @ matrix.T + [0, 128, 128]), 0, 255).astype(np.uint8)
    stream: bytes = imagecodecs.jpeg2k_encode(
        tile, codecformat="j2k", level=0, reversible=True, mct=False
    )
    return stream


def _ome(**options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        level0, level1 = colour_levels()
        options_of_all = {"tile": (TILE_PX, TILE_PX), "photometric": "rgb", **options}
        with tifffile.TiffWriter(path, bigtiff=True, ome=True) as tiff:
            size = {"axes": "YXS", "PhysicalSizeX": MPP, "PhysicalSizeY": MPP}
            tiff.write(level0, subifds=1, metadata=size, **options_of_all)
            tiff.write(level1, subfiletype=1, **options_of_all)

    return write


def _striped(**options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        tifffile.imwrite(
            path, tissue(), rowsperstrip=50, photometric="rgb", metadata=None, **options
        )

    return write


def _padded(level: Pixels) -> Pixels:
    """Return a level as Philips stores it: whole tiles, the rest of them white."""
    height, width = (-(-length // TILE_PX) * TILE_PX for length in level.shape[:2])
    padded = np.full((height, width, 3), 255, np.uint8)
    padded[: level.shape[0], : level.shape[1]] = level
    return padded


PHILIPS_LEVELS = 4


def _philips(path: Path) -> None:
    levels = [tissue()] + [shrunk(tissue(), 2**n) for n in range(1, PHILIPS_LEVELS)]
    pixels = "".join(
        '<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING" '
        f'Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">&quot;{MPP / 1000 * 2**n:.9f}&quot; '
        f'&quot;{MPP / 1000 * 2**n:.9f}&quot;</Attribute><Attribute Group="0x301D" '
        'Name="PIIM_PIXEL_DATA_REPRESENTATION_NUMBER" Element="0x1001" PMSVR="IUInt16">'
        f"{n}</Attribute></DataObject>"
        for n in range(PHILIPS_LEVELS)
    )
    array = '<Attribute Name="{}" Group="0x301D" Element="0x1003" PMSVR="IDataObjectArray"><Array>'
    xml = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        + array.format("PIM_DP_SCANNED_IMAGES")
        + '<DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE" '
        'Group="0x301D" Element="0x1004" PMSVR="IString">WSI</Attribute>'
        + array.format("PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE")
        + f"{pixels}</Array></Attribute></DataObject></Array></Attribute></DataObject>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, level in enumerate(levels):
            tiff.write(
                _padded(level), tile=(TILE_PX, TILE_PX), photometric="rgb", compression="jpeg",
                compressionargs={"level": 90}, subsampling=(1, 1), metadata=None,
                software="Philips DP v1.0", subfiletype=1 if number else 0,
                description=f"level={number} mag=40 quality=90" if number else xml,
            )  # fmt: skip


def _leica(path: Path) -> None:
    """One scanned area on a larger slide: OpenSlide's bounds, white around it."""
    (x0, y0), nm = AREA, round(MPP * 1000)
    width, height = 1000, 800
    level0 = tissue()[: AREA_SIZE[1], : AREA_SIZE[0]]
    macro = np.full((height // 8, width // 8, 3), 255, np.uint8)
    settings = (
        "<scanSettings><objectiveSettings><objective>40</objective></objectiveSettings>"
        "<illuminationSettings><numericalAperture>0.65</numericalAperture><illuminationSource>"
        "brightfield</illuminationSource></illuminationSettings></scanSettings>"
    )

    def image(ifds: list[int], levels: list[Pixels], view: tuple[int, int, int, int]) -> str:
        sizes = "".join(
            f'<dimension sizeX="{p.shape[1]}" sizeY="{p.shape[0]}" r="{n}" ifd="{ifd}"/>'
            for n, (ifd, p) in enumerate(zip(ifds, levels, strict=True))
        )
        x, y, across, down = (v * nm for v in view)
        return (
            '<image><device model="SCN400" version="1"/>'
            f'<pixels sizeX="{levels[0].shape[1]}" sizeY="{levels[0].shape[0]}">{sizes}</pixels>'
            f'<view sizeX="{across}" sizeY="{down}" offsetX="{x}" offsetY="{y}"/>{settings}</image>'
        )

    levels = [level0, shrunk(level0)]
    xml = (
        f'<?xml version="1.0"?><scn xmlns="{SCN}"><collection sizeX="{width * nm}" '
        f'sizeY="{height * nm}"><barcode></barcode>{image([0], [macro], (0, 0, width, height))}'
        f"{image([1, 2], levels, (x0, y0, *AREA_SIZE))}</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, level in enumerate([macro, *levels]):
            tiff.write(
                level, tile=(TILE_PX, TILE_PX), photometric="rgb", compression="jpeg",
                compressionargs={"level": 90}, subsampling=(1, 1), metadata=None,
                description=None if number else xml,
            )  # fmt: skip


@functools.cache
def kinds() -> dict[str, Kind]:
    """Return every kind by name."""
    half = {"compression": "adobe_deflate"}
    clear, seen = _translucent()
    grey = _grey()
    ours = ("tiff", "tiffslide")
    found = {
        f"jpeg {name} {'with tables in a tag' if abbreviated else 'in whole streams'}": _jpeg_kind(
            subsampling=subsampling, abbreviated=abbreviated
        )
        for name, subsampling in (("4:2:0", (2, 2)), ("4:2:2", (2, 1)), ("4:4:4", (1, 1)))
        for abbreviated in (False, True)
    }
    found |= {
        "jpeg rgb in whole streams": _jpeg_kind(rgb=True),
        "aperio jpeg rgb": _jpeg_kind(
            rgb=True, abbreviated=True, suffix=".svs", description=APERIO
        ),
        "bigtiff": _jpeg_kind(subsampling=(2, 1), writer={"bigtiff": True}),
        "big-endian": _jpeg_kind(subsampling=(2, 1), writer={"byteorder": ">"}, opens=ours),
        "sparse jpeg": _jpeg_kind(subsampling=(2, 1), sparse=True, opens=("tiff", "openslide")),
        "sparse deflate": _sparse_lossless(),
        "none": _lossless(),
        "deflate": _lossless(**half),
        "deflate, differences": _lossless(**half, predictor=True),
        "lzw": _lossless(compression="lzw"),
        "lzw, differences": _lossless(compression="lzw", predictor=True),
        "zstd": _lossless(compression="zstd"),
        "packbits": _lossless(compression="packbits"),
        "webp": _lossless(compression="webp", compressionargs={"lossless": True}, opens=ours),
        "jpeg 2000 34712": _lossless(
            compression=34712, encode=lambda t: jpeg2000(t, ycbcr=False), opens=ours
        ),
        "aperio jpeg 2000 33005": _lossless(
            compression=33005, encode=lambda t: jpeg2000(t, ycbcr=False), suffix=".svs",
            description=APERIO,
        ),
        "aperio jpeg 2000 33003": Kind(
            lambda path: pyramid(
                path, colour_levels(), compression=33003, description=APERIO,
                encode=lambda tile: jpeg2000(tile, ycbcr=True),
            ),
            suffix=".svs",
            differs={"tiffslide": (255, "takes YCbCr at full width for RGB")},
        ),
        "grey": _lossless(_as_rgb(grey), stored=grey, photometric="minisblack", **half),
        "grey, 0 is white": _lossless(
            _as_rgb(tuple(255 - g for g in grey)), stored=grey, photometric="miniswhite", **half,
            opens=("tiff", "openslide"),
        ),
        "translucent": _lossless(
            seen, stored=clear, extrasamples=("unassalpha",), **half,
            differs={"openslide": (1, "keeps colours multiplied by alpha in 8 bit")},
        ),
        "ome-tiff": Kind(_ome(**half), suffix=".ome.tif", levels=colour_levels()),
        "ome-tiff jpeg": Kind(
            _ome(compression="jpeg", subsampling=(2, 2)), suffix=".ome.tif"
        ),
        "striped": Kind(_striped(), opens=ours, levels=(tissue(),)),
        "striped deflate": Kind(_striped(**half), opens=ours, levels=(tissue(),)),
        "striped jpeg": Kind(_striped(compression="jpeg"), opens=ours),
        "philips": Kind(_philips, suffix=".tiff", opens=("tiff", "openslide")),
        "leica": Kind(_leica, suffix=".scn", opens=("openslide",)),
    }  # fmt: skip
    return found
