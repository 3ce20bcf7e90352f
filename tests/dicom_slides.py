"""Small DICOM whole-slide series, written with pydicom alone, as scanners and PACS write them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)

Encode = Callable[[NDArray[np.uint8]], bytes]


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Baseline JPEG in YCbCr without subsampling: DICOM calls it YBR_FULL."""
    return bytes(imagecodecs.jpeg8_encode(pixels, level=95, subsampling="444"))


def jpeg_rgb(pixels: NDArray[np.uint8]) -> bytes:
    """Baseline JPEG that holds RGB and does not say so, as Aperio's do."""
    data = imagecodecs.jpeg8_encode(pixels, level=95, colorspace="RGB", outcolorspace="RGB")
    at = data.index(b"\xff\xee")
    return bytes(data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :])


def jpeg_ls(pixels: NDArray[np.uint8]) -> bytes:
    return bytes(imagecodecs.jpegls_encode(pixels))


def jpeg_2000(pixels: NDArray[np.uint8]) -> bytes:
    """Lossless JPEG 2000 with its reversible colour transform: YBR_RCT."""
    return bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True))


def jpeg_2000_plain(pixels: NDArray[np.uint8]) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, mct=False))


def rle(pixels: NDArray[np.uint8]) -> bytes:
    """RLE (PS3.5, annex G): a header of 16 numbers, then each sample's plane as PackBits."""
    planes = np.atleast_3d(pixels).transpose(2, 0, 1)
    packed = [bytes(imagecodecs.packbits_encode(np.ascontiguousarray(p))) for p in planes]
    packed = [data + b"\0" * (len(data) % 2) for data in packed]
    starts = [64 + sum(len(data) for data in packed[:i]) for i in range(len(packed))]
    header = struct.pack("<16L", len(packed), *starts, *[0] * (15 - len(packed)))
    return header + b"".join(packed)


def native(pixels: NDArray[np.uint8]) -> bytes:
    return pixels.tobytes()


SYNTAXES: dict[Encode, UID] = {
    jpeg: JPEGBaseline8Bit,
    jpeg_rgb: JPEGBaseline8Bit,
    jpeg_ls: JPEGLSLossless,
    jpeg_2000: JPEG2000Lossless,
    jpeg_2000_plain: JPEG2000Lossless,
    rle: RLELossless,
    native: ExplicitVRLittleEndian,
}


def to_ycbcr(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Full-range YCbCr (JFIF), as Pillow computes it: an implementation other than ours."""
    return np.asarray(Image.fromarray(pixels).convert("YCbCr"))


def write_series(
    folder: Path,
    levels: Sequence[NDArray[np.uint8]],
    *,
    encode: Encode = jpeg,
    photometric: str = "YBR_FULL",
    tile: tuple[int, int] = (64, 48),
    mpp: tuple[float, float] | None = (0.5, 0.5),
    power: str | None = "20",
    associated: dict[str, NDArray[np.uint8]] | None = None,
    sparse: bool = False,
    stem: str = "",
    **attributes: object,
) -> list[Path]:
    """Write one series: a file per level (VOLUME) and per associated image; return the paths.

    Parameters
    ----------
    levels
        uint8 (height, width, 3) or (height, width), in the photometric interpretation's colours.
    tile, mpp
        (width, height) of a frame, px; pixel size (x, y) of the finest level, µm.
    associated
        Images by ImageType: LABEL, OVERVIEW, THUMBNAIL; one frame each.
    sparse
        TILED_SPARSE: frames last to first, each with its place, all-white ones left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shared = Dataset()
    shared.StudyInstanceUID, shared.SeriesInstanceUID = generate_uid(), generate_uid()
    shared.FrameOfReferenceUID = generate_uid()
    paths = []
    for number, pixels in enumerate(levels):
        factor = levels[0].shape[1] / pixels.shape[1]
        size = None if mpp is None else (mpp[0] * factor, mpp[1] * factor)
        dataset = _image(shared, number + 1, "VOLUME", pixels, tile, size, power, photometric)
        for key, value in attributes.items():
            setattr(dataset, key, value)
        frames = _frames(dataset, pixels, tile, sparse=sparse)
        paths.append(_save(dataset, folder / f"{stem}level_{number}.dcm", frames, encode))
    for number, (kind, pixels) in enumerate((associated or {}).items(), start=len(levels)):
        height, width = pixels.shape[:2]
        dataset = _image(shared, number + 1, kind, pixels, (width, height), None, power, "RGB")
        paths.append(_save(dataset, folder / f"{stem}{kind.lower()}.dcm", [pixels], native))
    return paths


def _image(
    shared: Dataset,
    number: int,
    kind: str,
    pixels: NDArray[np.uint8],
    tile: tuple[int, int],
    mpp: tuple[float, float] | None,
    power: str | None,
    photometric: str,
) -> Dataset:
    height, width = pixels.shape[:2]
    dataset = Dataset()
    dataset.update(shared)
    dataset.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", kind, "NONE" if number == 1 else "RESAMPLED"]
    dataset.Modality, dataset.Manufacturer = "SM", "Test"
    dataset.InstanceNumber = number
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "1"
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.Columns, dataset.Rows = tile
    dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = width, height
    dataset.TotalPixelMatrixFocalPlanes = 1
    dataset.NumberOfOpticalPaths = 1
    dataset.DimensionOrganizationType = "TILED_FULL"
    dataset.ImagedVolumeWidth = dataset.ImagedVolumeHeight = 10.0
    dataset.ImagedVolumeDepth = 1.0
    dataset.FocusMethod, dataset.ExtendedDepthOfField = "AUTO", "NO"
    dataset.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = "20"
    dataset.TotalPixelMatrixOriginSequence = DicomSequence([origin])
    path = Dataset()
    path.OpticalPathIdentifier = "1"
    if power is not None:
        path.ObjectiveLensPower = power
    dataset.OpticalPathSequence = DicomSequence([path])
    group = Dataset()
    if mpp is not None:
        measures = Dataset()
        # DICOM's order: between rows (y), then between columns (x), in mm.
        measures.PixelSpacing = [f"{mpp[1] / 1000:.10g}", f"{mpp[0] / 1000:.10g}"]
        measures.SliceThickness = "0.001"
        group.PixelMeasuresSequence = DicomSequence([measures])
    dataset.SharedFunctionalGroupsSequence = DicomSequence([group])
    return dataset


def _frames(
    dataset: Dataset, pixels: NDArray[np.uint8], tile: tuple[int, int], *, sparse: bool
) -> list[NDArray[np.uint8]]:
    """Return the frames, those at the end padded by their last pixel; place them if `sparse`."""
    width, height = tile
    pad = [(0, -pixels.shape[0] % height), (0, -pixels.shape[1] % width), (0, 0)][: pixels.ndim]
    padded = np.pad(pixels, pad, mode="edge")
    corners = [
        (x, y) for y in range(0, padded.shape[0], height) for x in range(0, padded.shape[1], width)
    ]
    frames = [np.ascontiguousarray(padded[y : y + height, x : x + width]) for x, y in corners]
    if not sparse:
        return frames
    kept = [i for i in reversed(range(len(frames))) if frames[i].min() < 255]
    dataset.DimensionOrganizationType = "TILED_SPARSE"
    groups = []
    for index in kept:
        position = Dataset()
        position.ColumnPositionInTotalImagePixelMatrix = corners[index][0] + 1
        position.RowPositionInTotalImagePixelMatrix = corners[index][1] + 1
        position.XOffsetInSlideCoordinateSystem = position.YOffsetInSlideCoordinateSystem = "0"
        position.ZOffsetInSlideCoordinateSystem = "0"
        group = Dataset()
        group.PlanePositionSlideSequence = DicomSequence([position])
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    return [frames[index] for index in kept]


def _save(
    dataset: Dataset, path: Path, frames: Sequence[NDArray[np.uint8]], encode: Encode
) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = SYNTAXES[encode]
    dataset.NumberOfFrames = len(frames)
    data = [encode(frame) for frame in frames]
    file = FileDataset(path, dataset, file_meta=meta, preamble=b"\0" * 128)
    if SYNTAXES[encode].is_encapsulated:
        file.PixelData = encapsulate(data, has_bot=True)
        file["PixelData"].VR = "OB"
        file["PixelData"].is_undefined_length = True
    else:
        joined = b"".join(data)
        file.PixelData = joined + b"\0" * (len(joined) % 2)
        file["PixelData"].VR = "OB"
    file.save_as(path, enforce_file_format=True)
    return path
