"""How near every engine and precision comes to torch in float32, and whether it matters.

First table: embeddings against those of torch, eager, in float32, on the tissue that comes with
the package and on tiles of GlaS; cosines as they are, and after the mean embedding is taken off,
which no common offset can flatter. int8 is calibrated on the package's tissue, so GlaS is the
fairer judge of it. Weights are random (seeded) but for the offline default, whose are ImageNet's.
Second table: the AUC of `glas.py` with the offline default, and its change seed by seed.

The GlaS fields are for research, not commercial use, and stay outside the repository.

    python benchmarks/fidelity.py --data ../shared/data/glas_glands/glas_patients_dev.zip
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from glas import embed_fields, pooled_auc, write_slides
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from mil_models import Encoder, create_encoder
from mil_models.engines import create_engine
from mil_models.engines.choice import LEAST_COSINE, reference_tiles
from mil_models.errors import EngineError
from mil_models.registry import DEFAULT_ENCODER
from wsi_pipeline.config import EncoderOptions

ENCODERS = (DEFAULT_ENCODER, "resnet50", "vit_small_patch16_224", "vit_base_patch16_224")
WAYS = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
)
Tiles = NDArray[np.uint8]
Embeddings = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path("../shared/data/glas_glands/glas_patients_dev.zip")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "glas")
    parser.add_argument("--encoders", nargs="*", default=list(ENCODERS))
    parser.add_argument("--tiles", type=int, default=194, help="of GlaS, for the cosines")
    parser.add_argument("--seeds", type=int, default=3, help="of the AUC; 0 leaves it out")
    arguments = parser.parse_args()
    console = Console(width=130)
    if arguments.encoders:
        console.print(cosines(arguments))
    if arguments.seeds:
        console.print(aucs(arguments))


def cosines(arguments: argparse.Namespace) -> Table:
    """Return the table of cosines to torch in float32."""
    table = Table(title="cosine to torch, eager, float32: least / mean")
    table.add_column("encoder")
    table.add_column("engine, precision")
    for tissue in ("reference", "GlaS"):
        for kind in ("", ", centred"):
            table.add_column(f"{tissue}{kind}", justify="right")
    table.add_column("let through", justify="right")
    for name in arguments.encoders:
        encoder = create_encoder(
            name, random_weights=name != DEFAULT_ENCODER, device="cpu", engine="torch",
            precision="float32",
        )  # fmt: skip
        tile_px = encoder.contract.default_tile_px
        tissues = (reference_tiles(tile_px), glas_tiles(arguments.data, tile_px, arguments.tiles))
        wanted = [encoder.embed(tiles) for tiles in tissues]
        for engine, precision in WAYS[1:]:
            try:
                found = embedded(encoder, engine, precision, tissues)
            except EngineError as err:
                print(f"left out: {name}, {engine}, {precision}: {err}")
                continue
            cells, least = [], 1.0
            for a, b in zip(wanted, found, strict=True):
                plain, centred = cosine(a, b), cosine(a - a.mean(axis=0), b - a.mean(axis=0))
                cells += [f"{c.min():.5f} / {c.mean():.5f}" for c in (plain, centred)]
                least = min(least, float(plain.min())) if a is wanted[0] else least
            let_through = least >= LEAST_COSINE.get(precision, 0.0)
            row = [name, f"{engine}, {precision}", *cells, "yes" if let_through else "no"]
            print(*row, sep=" | ", flush=True)
            table.add_row(*row)
        table.add_section()
    return table


def embedded(
    encoder: Encoder, engine: str, precision: str, tissues: tuple[Tiles, ...]
) -> list[Embeddings]:
    """Return the embeddings of tiles by the encoder's network in another engine or precision."""
    contract = encoder.contract
    runner = create_engine(
        engine,
        encoder.engine.network,
        mean=contract.mean,
        std=contract.std,
        batch=contract.batch,
        precision=precision,
        device=encoder.device,
        calibration=reference_tiles(contract.default_tile_px),
    )
    return [runner.embed_in_lanes(tiles) for tiles in tissues]


def glas_tiles(archive: Path, tile_px: int, count: int) -> Tiles:
    """Return `count` tiles of GlaS, from as many places in every field."""
    tiles = []
    with zipfile.ZipFile(archive) as zipped:
        names = sorted(n for n in zipped.namelist() if n.endswith(".jpg"))
        for number in range(count):
            with zipped.open(names[number % len(names)]) as file:
                field = np.asarray(Image.open(file).convert("RGB"))
            step = number // len(names)
            y0, x0 = (
                (step * tile_px // 2) % max(length - tile_px, 1) for length in field.shape[:2]
            )
            tile = field[y0 : y0 + tile_px, x0 : x0 + tile_px]
            if tile.shape[:2] == (tile_px, tile_px):
                tiles.append(tile)
    return np.stack(tiles)


def cosine(one: Embeddings, other: Embeddings) -> NDArray[np.float64]:
    """Return the cosine between the rows of two arrays."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    found: NDArray[np.float64] = (a * b).sum(axis=1) / (
        np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    )
    return found


def aucs(arguments: argparse.Namespace) -> Table:
    """Return the table of the GlaS AUC by engine and precision."""
    rows = write_slides(arguments.data, arguments.work / "slides")
    labels = [row["label"] for row in rows]
    title = f"{DEFAULT_ENCODER}: pooled out-of-fold AUC of {len(rows)} GlaS fields, patients apart"
    table = Table(title=title)
    for column in ("engine, precision", *(f"seed {s}" for s in range(arguments.seeds)), "mean",
                   "change, mean", "largest"):  # fmt: skip
        table.add_column(column, justify="left" if column == "engine, precision" else "right")
    base: list[float] = []
    for engine, precision in WAYS:
        options = EncoderOptions(device="cpu", engine=engine, precision=precision)  # type: ignore[arg-type]
        try:
            stores = embed_fields(arguments.work, arguments.work / f"{engine}-{precision}", options)
        except EngineError as err:
            table.add_row(f"{engine}, {precision}", f"refused: {err}"[:60])
            continue
        found = [
            pooled_auc(stores, rows, labels, arguments.work, seed=seed)[0]
            for seed in range(arguments.seeds)
        ]
        base = base or found
        changes = [a - b for a, b in zip(found, base, strict=True)]
        row = [f"{engine}, {precision}", *(f"{auc:.4f}" for auc in found),
               f"{statistics.mean(found):.4f}", f"{statistics.mean(changes):+.4f}",
               f"{max(changes, key=abs):+.4f}"]  # fmt: skip
        print(*row, sep=" | ", flush=True)
        table.add_row(*row)
    return table


if __name__ == "__main__":
    main()
