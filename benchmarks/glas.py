"""Tell malignant from benign colon fields of unseen patients: embeddings and a MIL head at work.

The GlaS fields (MICCAI 2015 gland challenge) are for research, not commercial use, and stay
outside the repository. Each field becomes a slide, tiles of 224 px overlap by half, and gated
attention MIL is cross-validated with patients apart. The figure is the pooled out-of-fold AUC with
a 95 % interval by resampling patients: 8 of the 11 patients have one class only, so an AUC per
fold means nothing.

    python benchmarks/glas.py --data ../shared/data/glas_glands/glas_patients_dev.zip
    python benchmarks/glas.py --random-weights
    python benchmarks/glas.py --shuffle-labels 20
"""

from __future__ import annotations

import argparse
import csv
import io
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from mil_models import train
from tiling.store import SlideStore, iter_stores
from tiling.write import write_slide
from wsi_pipeline.config import BatchOptions, EncoderOptions, TileOptions
from wsi_pipeline.pipeline import plan, run_slides

MPP = 0.62
TILES = TileOptions(tile_px=224, mpp=MPP, overlap=112, min_tissue=0.0)
EPOCHS = 30


def write_slides(archive: Path, folder: Path) -> list[dict[str, str]]:
    """Write each field as a slide; return the rows of the table of labels."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as zipped:
        names = {Path(name).name: name for name in zipped.namelist()}
        text = zipped.read(names["labels.csv"]).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text)))
        for row in track(rows, "writing slides"):
            path = folder / f"{row['name']}.tif"
            if not path.exists():
                with zipped.open(names[f"{row['name']}.jpg"]) as file:
                    pixels = np.asarray(Image.open(file).convert("RGB"))
                write_slide(path, pixels, mpp=MPP, downsamples=(1,), quality=95, subsampling=(1, 1))
    return rows


def embed_fields(work: Path, out: Path, encoder: EncoderOptions) -> list[SlideStore]:
    """Embed the slides that `write_slides` wrote under `work`; return their stores in `out`."""
    job = plan(out, ["tile", "embed"], tiles=TILES, encoder=encoder)
    run_slides("embed", [str(work / "slides")], job, batch=BatchOptions())
    return list(iter_stores(out))


def pooled_auc(
    stores: Sequence[SlideStore],
    rows: Sequence[dict[str, str]],
    labels: Sequence[str],
    work: Path,
    *,
    seed: int,
) -> tuple[float, float, float]:
    """Return the pooled out-of-fold AUC and its interval for `labels` of the fields in `rows`."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        table = Path(folder) / "labels.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["slide_id", "patient_id", "label"])
            writer.writerows(
                [r["name"], r["patient"], label] for r, label in zip(rows, labels, strict=True)
            )
        result = train(stores, table, Path(folder) / "model", folds=5, seed=seed, epochs=EPOCHS)
    metrics = result.metrics
    return metrics["auroc"], metrics["auroc_low"], metrics["auroc_high"]


def main() -> None:
    """Embed once, then cross-validate as asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path("../shared/data/glas_glands/glas_patients_dev.zip")
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "glas")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--shuffle-labels", type=int, default=0, metavar="RUNS")
    parser.add_argument("--seeds", type=int, default=1, help="repeat with so many seeds")
    arguments = parser.parse_args()

    rows = write_slides(arguments.data, arguments.work / "slides")
    out = arguments.work / ("random" if arguments.random_weights else "imagenet")
    encoder = EncoderOptions(random_weights=arguments.random_weights)
    stores = embed_fields(arguments.work, out, encoder)
    labels = [row["label"] for row in rows]
    if arguments.shuffle_labels:
        rng = np.random.default_rng(0)
        found = []
        for seed in track(range(arguments.shuffle_labels), "shuffled labels"):
            shuffled = [labels[i] for i in rng.permutation(len(labels))]
            found.append(pooled_auc(stores, rows, shuffled, arguments.work, seed=seed)[0])
        print(f"shuffled labels, {len(found)} runs: mean AUC {np.mean(found):.3f} "
              f"(sd {np.std(found):.3f}, {min(found):.3f} to {max(found):.3f})")  # fmt: skip
        return
    for seed in range(arguments.seeds):
        auc, low, high = pooled_auc(stores, rows, labels, arguments.work, seed=seed)
        print(f"seed {seed}: {len(rows)} fields, pooled out-of-fold AUC {auc:.4f} "
              f"(95 % {low:.3f} to {high:.3f}, patients resampled)")  # fmt: skip


if __name__ == "__main__":
    main()
