"""`wsi camelyon train`: weak, on slides' labels; strong, on tiles' labels from outlines."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mil_models.heads import head_class
from mil_models.options import TileTrainOptions
from tiling.store import iter_stores
from wsi_pipeline.camelyon.labels import store_fractions, unpacked_annotations
from wsi_pipeline.camelyon.options import TileFlags
from wsi_pipeline.camelyon.tables import few
from wsi_pipeline.errors import UsageError, as_usage_error
from wsi_pipeline.models import require_models
from wsi_pipeline.training import show_metrics, train_model


def train_weak(
    stores: Path, labels: Path, out: Path, *, head: str, epochs: int | None, **options: Any
) -> dict[str, Any]:
    """Train a head on slides' labels, see :func:`mil_models.train`; return its figures.

    Raises
    ------
    UsageError
        The head says nothing of single tiles: nothing could be found with it.
    """
    require_models()
    with as_usage_error():
        cls = head_class(head)
    if not cls.has_attention and not cls.instance_logits_are:
        raise UsageError(f"--head {head} says nothing of tiles; use another, e.g. additive")
    if epochs is not None:
        options["epochs"] = epochs
    return train_model(stores, labels, out, head=head, **options)


def train_strong(
    stores: Path,
    labels: Path,
    annotations: Sequence[Path],
    out: Path,
    flags: TileFlags,
    *,
    epochs: int | None,
    quiet: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Train a classifier of tiles, see :func:`mil_models.tile_training.train_tiles`.

    Raises
    ------
    UsageError, AnnotationError, LabelTableError
        An option, an outline or the table is wrong, or no outline belongs to a slide.
    """
    require_models()
    from mil_models.tile_training import train_tiles

    with as_usage_error():
        given: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
        settings = TileTrainOptions(**asdict(flags), **given)
    held = list(iter_stores(stores))
    with unpacked_annotations(annotations) as files:
        fractions, alone = store_fractions(files, held)
    if not fractions:
        raise UsageError(f"{annotations[0]}: no outline of a slide in {stores}: {few(alone)}")
    if alone:
        warnings.warn(f"outlines of slides without a store: {few(alone)}", stacklevel=2)
    console = Console(stderr=True, quiet=quiet)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        bars: dict[str, Any] = {}

        def tell(fold: str, done: int, of: int, loss: float) -> None:
            if fold not in bars:
                bars[fold] = progress.add_task(fold, total=of)
            progress.update(bars[fold], completed=done)

        with as_usage_error():
            result = train_tiles(
                held, labels, fractions, out, options=settings, on_progress=tell, **options
            )
    show_metrics(result.metrics, console)
    return result.metrics
