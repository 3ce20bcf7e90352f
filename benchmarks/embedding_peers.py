"""One program at work on one slide; `embedding.py` runs this with that program's interpreter.

It embeds the tiles that it is given with its own reader, transform, loop and output, all as shipped
by default but for the batch (32) and torch's seed, so that every network has the same weights. What
is left out is what a slide pays once: imports, the network, tissue, the grid. "loader" is the same
with a network that averages the pixels of each channel and so costs next to nothing. Some shrink or
crop the tiles on the way; `input_px` says what the network was given. TIAToolbox normalises nothing
unless it is told how; LazySlide leaves the embeddings in memory, the others write them.

    python embedding_programs.py lazyslide slide.tif resnet50 tiles.json

`tiles.json` holds `coords` (x0, y0 at level 0), `extent` (level-0 px), `tile_px`, `mpp` and
`slide_size`. Prints one line of JSON: the tiles, and of both runs the CPU seconds of this process
and those it started, and the wall seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import tempfile
import time
import types
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

BATCH = 32
WARM_UP = 32


class Program(ABC):
    """What embeds a slide; `network` is the timm model in it, `reader` what reads the slide."""

    package: str
    reader: str
    network: torch.nn.Module

    def __init__(self, slide: Path, encoder: str, tiles: dict[str, Any], folder: Path) -> None:
        self.slide = slide
        self.encoder = encoder
        self.tiles = tiles
        self.folder = folder

    @abstractmethod
    def embed(self, coords: np.ndarray, run: str) -> int:
        """Embed the tiles at `coords`, under a name that no other run has; return how many."""

    def input_px(self) -> int:
        """Return the edge of the tiles that the network is given, by embedding a few."""
        seen: list[int] = []
        hook = self.network.register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0].shape[-1])
        )
        self.embed(np.asarray(self.tiles["coords"][:WARM_UP]), "warm")
        hook.remove()
        return seen[0]

    def drop_network(self) -> None:
        """Put the mean of each channel, repeated to the same width, in place of the network."""
        width = int(self.network.num_features)

        def forward(_: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean((2, 3))[:, :1].expand(-1, width)

        self.network.forward = types.MethodType(forward, self.network)


class Ours(Program):
    """`wsi embed`'s path; without network as a GPU is fed."""

    package = "wsi-pipeline"
    precision = "float32"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        from embedding_ours import SlideTiles, encoder_of

        threads = int(os.environ["OMP_NUM_THREADS"])
        self.runner = encoder_of(self.encoder, self.precision, threads=threads)
        self.slide_tiles = SlideTiles.of(self.slide, self.tiles["tile_px"], self.folder)
        self.reader = self.slide_tiles.slide.reader

    def embed(self, coords: np.ndarray, run: str) -> int:
        return self.slide_tiles.at(coords).embed(self.runner)

    def input_px(self) -> int:
        self.embed(np.asarray(self.tiles["coords"][:WARM_UP]), "warm")
        return int(self.tiles["tile_px"])  # what `read_tiles` gives goes into the engine's graph

    def drop_network(self) -> None:
        from embedding_ours import free_encoder

        self.runner = free_encoder(self.runner)


class OursBfloat16(Ours):
    """The same in bfloat16."""

    precision = "bfloat16"


class LazySlide(Program):
    """Tiles in the store that `open_wsi` makes, then `tl.feature_extraction`."""

    package = "lazyslide"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        from lazyslide_models import TimmModel
        from wsidata import open_wsi

        torch.manual_seed(0)
        self.model = TimmModel(self.encoder, pretrained=False)
        self.network = self.model.model
        self.wsi = open_wsi(str(self.slide), store=str(self.folder / "lazyslide.zarr"))
        self.reader = type(self.wsi.reader).__name__

    def embed(self, coords: np.ndarray, run: str) -> int:
        import lazyslide
        from wsidata import TileSpec
        from wsidata.io import add_tiles

        px, extent = self.tiles["tile_px"], self.tiles["extent"]
        spec = TileSpec.from_wsidata(self.wsi, tile_px=px, mpp=self.tiles["mpp"])
        if [spec.base_width, spec.base_height] != extent:
            raise SystemExit(f"tiles of {spec.base_width} px at level 0, wanted {extent}")
        add_tiles(self.wsi, run, coords, spec, np.zeros(len(coords), int))
        features = lazyslide.tl.feature_extraction(
            self.wsi,
            self.model,
            batch_size=BATCH,
            tile_key=run,
            key_added=f"features_{run}",
            pbar=False,
            return_features=True,
        )
        return len(features)


class TIAToolbox(Program):
    """`DeepFeatureExtractor` over a mask that has just these tiles, into Zarr."""

    package = "tiatoolbox"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        from tiatoolbox.models import DeepFeatureExtractor
        from tiatoolbox.models.architecture import vanilla
        from tiatoolbox.wsicore.wsireader import WSIReader

        torch.manual_seed(0)
        self.network = timm.create_model(self.encoder, num_classes=0)
        vanilla._get_timm_architecture = lambda arch_name, *, pretrained: self.network
        backbone = vanilla.TimmBackbone(self.encoder, pretrained=False)
        self.extractor = DeepFeatureExtractor(backbone, batch_size=BATCH, verbose=False)
        self.reader = type(WSIReader.open(self.slide)).__name__

    def embed(self, coords: np.ndarray, run: str) -> int:
        import zarr
        from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig

        at_mpp = [{"units": "mpp", "resolution": self.tiles["mpp"]}]
        shape = (self.tiles["tile_px"], self.tiles["tile_px"])
        config = IOPatchPredictorConfig(
            input_resolutions=at_mpp,
            output_resolutions=at_mpp,
            patch_input_shape=shape,
            stride_shape=shape,
        )
        found = self.extractor.run(
            [self.slide],
            masks=[self._mask(coords, run)],
            ioconfig=config,
            patch_mode=False,
            save_dir=self.folder / f"tiatoolbox-{run}",
            overwrite=True,
            output_type="zarr",
        )
        group = zarr.open_group(str(next(iter(found.values()))), mode="r")
        corners = np.asarray(group["coordinates"])[:, :2] * self.tiles["extent"] // shape
        if not np.array_equal(np.unique(corners, axis=0), np.unique(coords, axis=0)):
            raise SystemExit(f"TIAToolbox took {len(corners)} tiles, and not those it was given")
        return int(group["features"].shape[0])

    def _mask(self, coords: np.ndarray, run: str) -> Path:
        """Return a picture of 8 px a tile, white inside the tiles but for one pixel of margin."""
        import cv2

        scale = [8 / e for e in self.tiles["extent"]]
        # The picture is stretched over the slide: its size stands for the slide's, not the grid's.
        width, height = (round(s * f) for s, f in zip(self.tiles["slide_size"], scale, strict=True))
        mask = np.zeros((height, width, 3), np.uint8)
        for x, y in np.rint(coords * scale).astype(int).tolist():
            mask[y + 2 : y + 6, x + 2 : x + 6] = 255
        path = self.folder / f"mask-{run}.png"
        cv2.imwrite(str(path), mask)
        return path


class Slide2Vec(Program):
    """`Model.embed_tiles` over a tiling that holds these tiles."""

    package = "slide2vec"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        import slide2vec
        from hs2p.tiling.single import preprocess_slide

        px = self.tiles["tile_px"]
        torch.manual_seed(0)
        self.network = network = timm.create_model(self.encoder, num_classes=0)
        config = network.pretrained_cfg

        class Encoder(slide2vec.TorchTileEncoder):
            def __init__(self, *, output_variant: str | None = None) -> None:
                super().__init__(
                    network,
                    encode_dim=network.num_features,
                    input_size=px,
                    mean=config["mean"],
                    std=config["std"],
                    output_variant=output_variant,
                )

        slide2vec.register_encoder(
            "benchmark",
            encode_dim=network.num_features,
            input_size=px,
            supports_variable_input_size=False,
            supported_spacing_um=None,
            default_spacing_um=self.tiles["mpp"],
            precision="fp32",
        )(Encoder)
        self.model = slide2vec.Model.from_preset("benchmark")
        self.tiling = preprocess_slide(
            image_path=self.slide,
            sample_id=self.slide.stem,
            requested_tile_size_px=px,
            requested_spacing_um=self.tiles["mpp"],
        )
        self.reader = self.tiling.backend

    def embed(self, coords: np.ndarray, run: str) -> int:
        import slide2vec

        grid = dataclasses.replace(
            self.tiling.tiles,
            x=coords[:, 0],
            y=coords[:, 1],
            tissue_fractions=np.ones(len(coords), np.float32),
            tile_index=None,
        )
        found = self.model.embed_tiles(
            [self.slide],
            [dataclasses.replace(self.tiling, tiles=grid)],
            execution=slide2vec.ExecutionOptions(
                output_dir=self.folder / run, batch_size=BATCH, precision="fp32"
            ),
        )
        return int(found[0].num_tiles)


PROGRAMS: dict[str, type[Program]] = {
    "ours": Ours,
    "ours-bfloat16": OursBfloat16,
    "lazyslide": LazySlide,
    "tiatoolbox": TIAToolbox,
    "slide2vec": Slide2Vec,
}


def measured(program: Program, coords: np.ndarray, run: str) -> dict[str, float]:
    """Return the CPU and wall seconds of embedding the tiles at `coords`."""
    started, cpu = time.perf_counter(), sum(os.times()[:4])
    tiles = program.embed(coords, run)
    seconds = time.perf_counter() - started
    if tiles != len(coords):
        raise SystemExit(f"{program.package}: {tiles} embeddings of {len(coords)} tiles")
    return {"cpu_s": sum(os.times()[:4]) - cpu, "wall_s": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=PROGRAMS)
    parser.add_argument("slide", type=Path)
    parser.add_argument("encoder")
    parser.add_argument("tiles", type=Path)
    arguments = parser.parse_args()
    tiles = json.loads(arguments.tiles.read_text())
    coords = np.asarray(tiles["coords"], np.int64)
    with tempfile.TemporaryDirectory() as folder:
        program = PROGRAMS[arguments.name](arguments.slide, arguments.encoder, tiles, Path(folder))
        found: dict[str, Any] = {
            "name": arguments.name,
            "version": importlib.metadata.version(program.package),
            "reader": program.reader,
            "tiles": len(coords),
            "input_px": program.input_px(),
            "embed": measured(program, coords, "embed"),
        }
        program.drop_network()
        program.embed(coords[:WARM_UP], "warm_loader")
        found["loader"] = measured(program, coords, "loader")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
