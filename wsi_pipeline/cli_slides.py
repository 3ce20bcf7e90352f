"""Commands that go over slides: tiles, embeddings, scores, heatmaps, and looking at them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console

from wsi_pipeline.cli_flags import Flag, Out, SlideMpp, Slides, Stores, examples
from wsi_pipeline.config import (
    BatchOptions,
    EncoderOptions,
    TileOptions,
    check_slide_mpp,
)
from wsi_pipeline.errors import UsageError

if TYPE_CHECKING:
    pass

slides = App()


@slides.command(
    help_epilogue=examples(
        "wsi tile slide.svs -o out",
        "wsi tile slides/ -o out --tile-px 224 --mpp 0.5 --workers 4",
        "wsi tile manifest.csv -o out --save-tiles",
    )
)
def tile(
    slides: Slides,
    /,
    *,
    out: Out,
    tiles: TileOptions = TileOptions(),
    batch: BatchOptions = BatchOptions(),
) -> int:
    """Find tissue, lay a grid of tiles over it, and make a store for each slide."""
    from wsi_pipeline.pipeline import plan, run_slides

    stages = ["tile", "save_tiles"] if tiles.save_tiles else ["tile"]
    return _summary(run_slides("tile", slides, plan(out, stages, tiles=tiles), batch=batch), batch)


@slides.command(
    help_epilogue=examples(
        "wsi embed slides/ -o out",
        "wsi embed slides/ -o out --encoder resnet50 --weights resnet50.safetensors",
        "wsi embed slides/ -o out --workers 2",
    )
)
def embed(
    slides: Slides,
    /,
    *,
    out: Out,
    tiles: TileOptions = TileOptions(),
    encoder: EncoderOptions = EncoderOptions(),
    batch: BatchOptions = BatchOptions(),
) -> int:
    """Turn every tile into an embedding; tiles first where needed, goes on where it stopped."""
    from wsi_pipeline.pipeline import plan, run_slides

    stages = ["tile", "save_tiles", "embed"] if tiles.save_tiles else ["tile", "embed"]
    job = plan(out, stages, tiles=tiles, encoder=encoder)
    return _summary(run_slides("embed", slides, job, batch=batch), batch)


@slides.command(
    help_epilogue=examples(
        "wsi predict --stores out --model model",
        "wsi predict --stores out --model model --patients labels.csv",
        "wsi predict --stores out --model model --within outlines/slide_1.geojson",
    )
)
def predict(
    *,
    stores: Stores,
    model: Path,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    patients: Path | None = None,
    within: Path | None = None,
    batch: BatchOptions = BatchOptions(),
) -> int:
    """Score embedded slides; attention goes into the stores, scores into predictions.csv.

    Parameters
    ----------
    model
        Model folder made by `wsi train`.
    out
        Where predictions.csv goes; the output folder itself if not given.
    patients
        CSV with slide_id (or path) and patient_id: all slides of a patient are also scored as one
        bag, into patients.csv. For models trained with --bag patient.
    within
        Outlines drawn on a slide (QuPath's .geojson, ASAP's .xml) in a file named after it, or a
        folder of them: these slides are scored by the tiles inside alone, from the embeddings that
        are there, into predictions_within.csv. Outlines of the class Ignore are cut out.
    """
    from wsi_pipeline.models import load_model
    from wsi_pipeline.patients import predict_patients
    from wsi_pipeline.pipeline import predict_stores, root_of

    if within is not None and patients is not None:
        raise UsageError("--within scores parts of slides, --patients all slides: choose one")
    result = predict_stores(stores, model, out, within=within, batch=batch)
    if patients is None and load_model(model.resolve()).takes_patients:
        warnings.warn(f"{model} was trained on all slides of a patient at once; each slide is "
                      "scored alone. Pass --patients for patients", stacklevel=2)  # fmt: skip
    code = _summary(result, batch)
    if patients is not None:
        found, failed = predict_patients(stores, model.resolve(), patients, out or root_of(stores))
        if batch.progress == "auto":
            text = f"{found - failed} of {found} patients scored in patients.csv"
            Console(stderr=True).print(text, highlight=False)
        code = max(code, min(failed, 1))
    return code


@slides.command(help_epilogue=examples("wsi heatmap --stores out --model model"))
def heatmap(
    *, stores: Stores, model: Path | None = None, batch: BatchOptions = BatchOptions()
) -> int:
    """Draw the heatmaps of scored slides: OME-Zarr, PNG over the slide, GeoJSON for QuPath.

    Parameters
    ----------
    model
        Model folder; slides it has not scored yet are scored. Without it, the slide's only score
        is drawn, or tissue where there is none.
    """
    from wsi_pipeline.pipeline import draw_stores

    return _summary(draw_stores(stores, model, batch=batch), batch)


@slides.command(
    help_epilogue=examples(
        "wsi run slide.svs -o out",
        "wsi run slides/ -o out --model model --workers 2",
        "wsi run manifest.csv -o out --model model --progress json",
        "wsi run slides/ -o out --config wsi.toml",
    )
)
def run(
    slides: Slides,
    /,
    *,
    out: Out,
    model: Path | None = None,
    tiles: TileOptions = TileOptions(),
    encoder: EncoderOptions = EncoderOptions(),
    batch: BatchOptions = BatchOptions(),
    live: Annotated[bool, Flag] = False,
) -> int:
    """Do all of it: tiles, embeddings, scores, heatmaps and one page about every slide.

    Parameters
    ----------
    model
        Model folder made by `wsi train`. Without one: tissue, embeddings and the page.
    live
        Also score what is embedded so far, every few seconds, so that a viewer shows the heatmap
        as it grows. The finished score is the same.
    """
    from wsi_pipeline.pipeline import run as run_all

    result = run_all(slides, out, model=model, tiles=tiles, encoder=encoder, batch=batch, live=live)
    if batch.progress == "auto":
        Console().print(f"Page: {result.out / 'report.html'}", highlight=False, soft_wrap=True)
    return _summary(result, batch)


@slides.command(help_epilogue=examples("wsi view slide.svs", "wsi view slide.svs --stores out"))
def view(slide: str, /, *, stores: Path | None = None, slide_mpp: SlideMpp = None) -> int:
    """Open a slide in napari, with its heatmap where a store has one.

    Parameters
    ----------
    slide
        A slide (file, folder or URL), or a slide store.
    stores
        Output folder of `wsi run` that holds the slide's store.
    """
    from wsi_pipeline.viewing import view_slide

    check_slide_mpp(slide_mpp)
    view_slide(slide, stores=stores, mpp=slide_mpp)
    return 0


@slides.command(help_epilogue=examples("wsi demo", "wsi demo --slides 4 -o /tmp/demo --workers 2"))
def demo(
    *,
    out: Out = Path("demo"),
    slides: int = 12,
    batch: BatchOptions = BatchOptions(),
) -> int:
    """Build a small archive of slides, then tile, embed, train, score and draw it. No network.

    Parameters
    ----------
    out
        Output folder.
    slides
        Number of slides, half of them with a tumour; at least 4.
    """
    from wsi_pipeline.demo import run_demo

    console = Console(stderr=batch.progress == "json")
    return run_demo(out, slides=slides, batch=batch, console=console)


def _summary(result: Any, batch: BatchOptions) -> int:
    code: int = result.exit_code
    if batch.progress == "auto":
        done = result.slides - len(result.failed)
        text = f"{done} of {result.slides} slides done in {result.out}"
        if result.bad_tiles:
            text += f"; {result.bad_tiles} tiles could not be read"
        if result.failed:
            text += f"; {len(result.failed)} failed, reasons in {result.out / 'run_table.csv'}"
        if result.embedding is not None:
            text += f"\n{result.embedding}"
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)
    return code
