"""What an encoder is and what decides its numbers. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mil_models.errors import EncoderMismatchError

DEFAULT_TILE_PX = 256
RANGE_MULTIPLE, RANGE_MINIMUM = 32, 96


@dataclass(frozen=True, slots=True)
class WeightsSource:
    """Where an encoder's weights are published, and how their names become the network's.

    Attributes
    ----------
    repository, files
        Repository on the Hugging Face hub and the files that may hold the weights, best first.
    gated
        Whether the authors' terms must be accepted on the hub before anything can be fetched.
    package, install, sha256
        An installed Python package that carries the file, what `pip` calls it, the file's hash.
    rename
        Parts of names in the file that are called otherwise in the network; ``backbone.`` is left
        out of the network's names.
    drop
        Beginnings of names in the file that the tile encoder has no use for (text towers, heads).
    in_order
        The file has timm's parameters in timm's order, under other names.
    obtain
        Where to get the file if it is on no hub.
    """

    repository: str = ""
    files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    gated: bool = False
    package: str = ""
    install: str = ""
    sha256: str = ""
    rename: dict[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    in_order: bool = False
    obtain: str = ""

    @property
    def name(self) -> str:
        """The source in one word, as a contract records it."""
        return self.repository or self.install or self.obtain or "local"


@dataclass(frozen=True, slots=True)
class Proof:
    """What shows that the network is the authors'.

    Attributes
    ----------
    parameters
        Published number of parameters, exact (``"1134953984"``) or rounded (``"303.4M"``); empty
        if there is no source: the encoder is shown as unproven.
    not_built
        Parameters of the authors' file that the tile encoder does not have: mask token, classifier.
    source
        Who published the number.
    golden
        Whether a test compares embeddings with the authors' on a fixed picture.
    """

    parameters: str = ""
    not_built: int = 0
    source: str = ""
    golden: bool = False

    def agrees(self, built: int) -> bool:
        """Whether a network of `built` parameters has the published number.

        Examples
        --------
        >>> Proof("303.4M").agrees(303_350_784), Proof("303.4M").agrees(303_230_976)
        (True, False)
        """
        total = built + self.not_built
        factor = {"M": 1e6, "B": 1e9}.get(self.parameters[-1:])
        if factor is None:
            return self.parameters == str(total)
        digits = len(self.parameters[:-1].partition(".")[2])
        return f"{total / factor:.{digits}f}" == self.parameters[:-1]


class TakesTiles:
    """What an encoder and its contract say of the tiles that it was made for."""

    __slots__ = ()
    name: str
    tile_px: int | None
    trained_mpp: tuple[float, ...]
    mpp_tolerance: float

    @property
    def default_tile_px(self) -> int:
        """The tile's size; 256 where a range is allowed."""
        return self.tile_px or DEFAULT_TILE_PX

    def mismatch(self, tile_px: int, mpp: float) -> str:
        """Return how such tiles differ from those the encoder was made for; empty if they do not.

        A pixel size fits if it is within the tolerance of one that the encoder was trained at.
        """
        if self.tile_px is not None and tile_px != self.tile_px:
            return f"takes tiles of {self.tile_px} px, not {tile_px}; pass --tile-px {self.tile_px}"
        if self.tile_px is None and (tile_px % RANGE_MULTIPLE or tile_px < RANGE_MINIMUM):
            return (
                f"takes tiles of a multiple of {RANGE_MULTIPLE} px from {RANGE_MINIMUM}, "
                f"not {tile_px}; pass --tile-px {DEFAULT_TILE_PX}"
            )
        widest = self.mpp_tolerance * (1 + 1e-9)  # 0.55 is within 10 % of 0.5, though not in binary
        if self.trained_mpp and not any(
            abs(mpp - trained) <= widest * trained for trained in self.trained_mpp
        ):
            allowed = " or ".join(f"{trained:g}" for trained in self.trained_mpp)
            return f"was trained at {allowed} µm, not {mpp:g}; pass --mpp {self.trained_mpp[0]:g}"
        return ""

    def check_tiles(self, tile_px: int, mpp: float, *, allow_mismatch: bool = False) -> str:
        """Make sure that the encoder was made for such tiles; return what was allowed all the same.

        Raises
        ------
        EncoderMismatchError
            Another size or pixel size, and `allow_mismatch` is false.
        """
        problem = self.mismatch(tile_px, mpp)
        if problem and not allow_mismatch:
            raise EncoderMismatchError(f"{self.name} {problem}, or --allow-mismatch")
        return problem.partition(";")[0]


@dataclass(frozen=True, slots=True)
class EncoderSpec(TakesTiles):
    """How an encoder is built and what it expects; one TOML file each.

    Attributes
    ----------
    library, architecture, arguments
        ``"timm"`` and what timm builds it with, or ``"plugin"``: a package that the user installs.
    tile_px
        Edge of the tile cut from the slide, or None: any multiple of 32 from 96.
    trained_mpp, mpp_tolerance
        µm per pixel it was trained at, the usual one first, and the part of it by which tiles may
        differ; none for encoders of photographs, which take any.
    mean, std
        Normalisation of RGB in 0 to 1.
    resize_px, interpolation, crop_px
        The authors' resize (of the tile's edge) and central crop, where they state one.
    pooling
        How tokens become the embedding; a name in `mil_models.network.POOLINGS`.
    projection
        Widths of a linear-GELU-linear head after pooling; empty without one.
    unit_length
        Whether the embedding is divided by its length.
    width
        Length of an embedding.
    precision
        In what the authors run it; a record, not a setting.
    """

    name: str
    summary: str
    library: str
    architecture: str
    arguments: dict[str, Any]
    tile_px: int | None
    trained_mpp: tuple[float, ...]
    mpp_tolerance: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_px: int | None
    interpolation: str
    crop_px: int | None
    pooling: str
    projection: tuple[int, ...]
    unit_length: bool
    width: int
    precision: str
    licence: str
    commercial: bool | None
    weights: WeightsSource = WeightsSource()
    proof: Proof = Proof()

    @property
    def input_px(self) -> int | None:
        """What the backbone sees after resize and crop; None where a range is allowed."""
        return self.crop_px or self.resize_px or self.tile_px

    def contract(self, *, weights: str, precision: str, engine: str, batch: int) -> EncoderContract:
        """Return the contract of this encoder at work with such weights and engine."""
        return EncoderContract(
            name=self.name,
            library=self.library,
            architecture=self.architecture,
            arguments=self.arguments,
            weights=weights,
            tile_px=self.tile_px,
            trained_mpp=self.trained_mpp,
            mpp_tolerance=self.mpp_tolerance,
            mean=self.mean,
            std=self.std,
            resize_px=self.resize_px,
            interpolation=self.interpolation,
            crop_px=self.crop_px,
            pooling=self.pooling,
            projection=self.projection,
            unit_length=self.unit_length,
            width=self.width,
            licence=self.licence,
            source=self.weights.name,
            precision=precision,
            engine=engine,
            batch=batch,
        )


@dataclass(frozen=True, slots=True)
class EncoderContract(TakesTiles):
    """All that decides an embedding's numbers; stored with the embeddings and with models.

    `weights` is ``sha256:…`` of the file or ``random:<seed>``; `batch` is the forward batch; the
    other fields are those of :class:`EncoderSpec`.
    """

    name: str
    library: str
    architecture: str
    arguments: dict[str, Any]
    weights: str
    tile_px: int | None
    trained_mpp: tuple[float, ...]
    mpp_tolerance: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_px: int | None
    interpolation: str
    crop_px: int | None
    pooling: str
    projection: tuple[int, ...]
    unit_length: bool
    width: int
    licence: str
    source: str
    precision: str
    engine: str
    batch: int
