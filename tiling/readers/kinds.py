"""What a path holds, told without opening it: a Zarr group, a DICOM file."""

from __future__ import annotations

from pathlib import Path

from tiling.urls import is_url


def is_zarr(path: str | Path) -> bool:
    """Whether `path` names a Zarr group: a folder that holds one, a zipped one, or a URL's name.

    Examples
    --------
    >>> is_zarr("https://host/a.zarr"), is_zarr("s3://bucket/a.zarr/0"), is_zarr("https://h/a.tif")
    (True, True, False)
    """
    text = str(path)
    parts = text.replace("\\", "/").rstrip("/").split("/")
    if is_url(text):
        return any(part.lower().endswith((".zarr", ".ozx")) for part in parts)
    if parts[-1].lower().endswith((".ozx", ".zarr.zip")):
        return Path(path).is_file()
    names = ("zarr.json", ".zgroup", ".zattrs")
    return Path(path).is_dir() and any((Path(path) / name).is_file() for name in names)


def is_dicom(path: str | Path) -> bool:
    """Whether a local file begins as DICOM files do (PS3.10, section 7.1)."""
    try:
        with Path(path).open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
