"""What `wsi train` does around :func:`mil_models.train`: stores in, progress and figures out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import mil_models
from tiling.store import iter_stores
from wsi_pipeline.errors import as_usage_error
from wsi_pipeline.models import require_models


def train_model(
    stores: Path, labels: Path, out: Path, *, quiet: bool = False, **options: Any
) -> dict[str, Any]:
    """Train a model on the stores of a run, show how it goes, and return its metrics.

    `options` are those of :func:`mil_models.train`.
    """
    require_models()
    console = Console(stderr=True, quiet=quiet or not is_first_process())
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[loss]}"),
        console=console,
    ) as progress:
        bars: dict[str, Any] = {}

        def tell(fold: str, epoch: int, epochs: int, loss: float | None) -> None:
            if fold not in bars:
                bars[fold] = progress.add_task(fold, total=epochs, loss="")
            text = "" if loss is None else f"validation loss {loss:.4f}"
            progress.update(bars[fold], completed=epoch, total=epochs, loss=text)

        with as_usage_error():
            result = mil_models.train(
                list(iter_stores(stores)), labels, out, on_progress=tell, **options
            )
    metrics: dict[str, Any] = result.metrics
    show_metrics(metrics, console)
    return metrics


def is_first_process() -> bool:
    """Whether this is not one of the further processes of a training on several devices.

    These run the same command; they are to say nothing.
    """
    return os.environ.get("LOCAL_RANK", "0") == "0"


def show_metrics(metrics: dict[str, Any], console: Console) -> None:
    """Print out-of-fold figures as a table."""
    table = Table("out-of-fold", "value", "95 %, patients resampled", box=None)
    for key, value in _rows(metrics):
        table.add_row(key, *value)
    console.print(table)


def _rows(metrics: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield each figure with its interval; those of several tasks after their names."""
    for key, value in metrics.items():
        if isinstance(value, dict) and key != "reasons":
            yield from _rows(value, f"{prefix}{key}.")
        elif key != "reasons" and not key.endswith(("_low", "_high")):
            low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
            interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
            text = f"{value:.4f}" if isinstance(value, float) else str(value)
            yield f"{prefix}{key}", (text, interval)
