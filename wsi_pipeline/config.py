"""What a command can be told: option groups shared by the command line and the Python API."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from wsi_pipeline.errors import UsageError, as_usage_error

if TYPE_CHECKING:
    from tiling.grid import TileSpec

ReaderName = Literal["auto", "tiff", "openslide", "dicom", "ome-zarr", "tiffslide"]
DEFAULT_TILE_PX = 256
DEFAULT_MPP = 0.5
DEFAULT_EDGE: Literal["drop", "pad"] = "drop"
DEFAULT_ENCODER = "tf_efficientnet_lite0"


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class TileOptions:
    """What a tile is and how slides are read.

    Parameters
    ----------
    tile_px
        Tile edge in pixels; the model's if there is one, else the encoder's input size (256 where
        it takes a range).
    mpp
        Pixel size of the tiles in µm; the model's if there is one, else 0.5.
    overlap
        Pixels that neighbouring tiles share.
    min_tissue
        Smallest share of tissue in a tile, 0 to 1; 0 keeps every tile.
    edge
        Tiles that reach over the slide's end: leave out, or pad with white. The model's choice if
        there is one, else drop.
    exact
        Decode at full resolution before averaging.
    slide_mpp
        Pixel size of the slides at level 0 in µm; overrides what they state.
    reader
        Which library opens the slides; auto takes the fastest that can.
    save_tiles
        Also store the tiles' pixels.
    """

    tile_px: int | None = None
    mpp: float | None = None
    overlap: int = 0
    min_tissue: float = 0.1
    edge: Literal["drop", "pad"] | None = None
    exact: Annotated[bool, Parameter(negative="")] = False
    slide_mpp: float | None = None
    reader: ReaderName = "auto"
    save_tiles: Annotated[bool, Parameter(negative="")] = False

    def __post_init__(self) -> None:
        check_slide_mpp(self.slide_mpp)

    def spec(self, default_tile_px: int = DEFAULT_TILE_PX) -> TileSpec:
        """Return the tile specification, or a `UsageError` that names the wrong value."""
        from tiling.grid import TileSpec  # not at the top: `wsi --help` should be quick

        with as_usage_error():
            return TileSpec(
                tile_px=default_tile_px if self.tile_px is None else self.tile_px,
                mpp=DEFAULT_MPP if self.mpp is None else self.mpp,
                overlap=self.overlap,
                min_tissue=self.min_tissue,
                edge=self.edge or DEFAULT_EDGE,
                exact=self.exact,
            )


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """Which network turns a tile into an embedding, and where it runs.

    Parameters
    ----------
    encoder
        Name of an encoder (`wsi encoders` lists them), a TOML file that describes one, or the name
        of any timm model; the model's if there is one, else tf_efficientnet_lite0.
    weights
        Local weights (safetensors, or a torch file without code) in place of the published ones.
    random_weights
        Random weights from seed 0: for benchmarks and tests only.
    device
        auto, cpu, cuda, cuda:1, mps.
    batch_size
        Tiles a forward pass, or auto; part of the embedding's identity.
    engine
        What runs the network: auto (OpenVINO on a CPU where it is installed), torch, openvino.
    precision
        auto (bfloat16 where the processor has it and next to nothing is lost), float32, bfloat16,
        int8 (OpenVINO, calibrated on tissue).
    allow_mismatch
        Take tiles of a size or pixel size the encoder was not made for; recorded.
    """

    encoder: str | None = None
    weights: Path | None = None
    random_weights: Annotated[bool, Parameter(negative="")] = False
    device: str = "auto"
    batch_size: int | Literal["auto"] = "auto"
    engine: Literal["auto", "torch", "openvino"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    allow_mismatch: Annotated[bool, Parameter(negative="")] = False


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How a batch works and shows where it is.

    Parameters
    ----------
    workers
        Processes that work across slides; 1 works in this process.
    progress
        A live display, JSON lines on standard output, or nothing.
    """

    workers: int = 1
    progress: Literal["auto", "json", "none"] = "auto"

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"workers={self.workers}: must be at least 1")


def check_slide_mpp(mpp: float | None) -> None:
    """Raise `UsageError` if the pixel size given for the slides is no pixel size at all."""
    if mpp is not None and not 0 < mpp < float("inf"):
        raise UsageError(f"slide_mpp={mpp}: must be positive, in µm per pixel, e.g. 0.25")
