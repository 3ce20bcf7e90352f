"""What a training can be told; imports no torch, so that `wsi train --help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TaskName = Literal["binary", "multiclass", "multilabel", "ordinal", "regression", "survival"]
TASK_NAMES: tuple[TaskName, ...] = (
    "binary", "multiclass", "multilabel", "ordinal", "regression", "survival",
)  # fmt: skip
ClassLoss = Literal["cross-entropy", "focal", "gce", "sce", "mse", "huber"]
Balance = Literal["auto", "weights", "sampling", "none"]


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What is asked of a slide, beyond the task's name.

    Parameters
    ----------
    columns
        Columns of the table that hold the answer. If not given: label (binary, multiclass,
        ordinal), value (regression), time and event (survival), all label_… (multilabel).
    classes
        The classes in order: the last is the positive one of two, the worst of ordinal grades.
        In alphabetical order if not given, numbers in the order of numbers.
    loss
        cross-entropy, focal (hard slides count more), gce or sce (wrong labels count less) for
        binary and multiclass; mse or huber for regression. The first of each if not given.
    balance
        What makes rare classes count as much as common ones: weights in the loss, sampling of the
        slides, or none. auto: weights for binary, multiclass and multilabel, else none.
    uncertain
        What -1 means in a multilabel table: left out, 0, 1, or something between 0.55 and 0.85.
    survival
        cox (proportional hazards) or discrete (a hazard for each interval of time).
    bins
        Intervals of discrete survival.
    times
        Times at which the probability of no event is given; by default the quartiles of the
        times in the table.
    consensus
        Where several readers (column reader, a row each) labelled a slide: what most said, or the
        share of readers as a soft label.
    """

    columns: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    loss: ClassLoss | None = None
    balance: Balance = "auto"
    uncertain: Literal["ignore", "zeros", "ones", "soft"] = "ignore"
    survival: Literal["cox", "discrete"] = "cox"
    bins: int = 6
    times: tuple[float, ...] | None = None
    consensus: Literal["majority", "soft"] = "majority"

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"bins={self.bins}: must be at least 2")
        if self.times and min(self.times) <= 0:
            raise ValueError(f"times={self.times}: must be positive")


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """Who is trained on and who is tested.

    Parameters
    ----------
    splits
        CSV with slide_id, repeat, fold, part (train, val, test), such as the splits.csv of a model
        folder; or with columns train, val, test. In place of --folds.
    split_by
        patient: folds of patients; site: each site left out once; site-folds: folds in which all
        slides of a site stand together.
    repeats
        How often the folds are drawn anew; a slide's predictions are averaged.
    """

    splits: Path | None = None
    split_by: Literal["patient", "site", "site-folds"] = "patient"
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats={self.repeats}: must be at least 1")
        if self.split_by not in ("patient", "site", "site-folds"):
            raise ValueError(f"split_by={self.split_by!r}: use patient, site, site-folds")
        if self.splits is not None and (self.split_by != "patient" or self.repeats > 1):
            raise ValueError("a file of splits goes with neither split_by nor repeats")


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a head is trained.

    Parameters
    ----------
    epochs
        Passes over the training slides, at most.
    patience
        Epochs without a lower validation loss before a fold stops.
    learning_rate
        AdamW's, after the warm-up.
    weight_decay
        AdamW's.
    schedule
        The learning rate stays, or falls to 0 along half a cosine.
    warmup
        Epochs over which the learning rate rises from 0.
    batch
        Bags per step, one after another in memory. 1 if not given; 32 for Cox, whose loss compares
        the bags of a step.
    max_instances
        Instances drawn from a bag for one step; all are used to validate and to predict.
    seeds
        Heads trained for each fold, whose predictions are averaged.
    bag
        What a bag is: a slide, or all slides of a patient.
    device
        auto (CUDA where there is one, else the CPU), cpu, cuda.
    devices
        GPUs (or CPU processes) that share every step's bags.
    precision
        fp32, or bf16-mixed.
    calibration
        How out-of-fold scores are made probabilities, by which `wsi predict` corrects its own:
        temperature, isotonic, or none. Only for tasks of classes.
    rule
        How the model's operating point is chosen (binary): youden (highest sum of sensitivity and
        specificity), or a sensitivity or specificity of at least --at-least.
    at_least
        See rule.
    tensorboard
        Write the losses for TensorBoard too (they are in epochs.csv in any case).
    checkpoint_seconds
        How often the state is saved from which a killed training goes on.
    cache_gb
        Gigabytes of embeddings that are kept in memory between epochs, the others being read
        again; a quarter of what is free if not given (where a cluster's job may use less than the
        machine has, give it).
    """

    epochs: int = 100
    patience: int = 15
    learning_rate: float = 2e-4
    weight_decay: float = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    batch: int | None = None
    max_instances: int = 8192
    seeds: int = 1
    bag: Literal["slide", "patient"] = "slide"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    precision: Literal["fp32", "bf16-mixed"] = "fp32"
    calibration: Literal["temperature", "isotonic", "none"] = "temperature"
    rule: Literal["youden", "sensitivity", "specificity"] = "youden"
    at_least: float = 0.95
    tensorboard: bool = False
    checkpoint_seconds: float = 60.0
    cache_gb: float | None = None

    def __post_init__(self) -> None:
        if self.cache_gb is not None and not 0 <= self.cache_gb < float("inf"):
            raise ValueError(f"cache_gb={self.cache_gb}: must be at least 0")
        for name in ("epochs", "patience", "max_instances", "seeds", "devices"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch={self.batch}: must be at least 1")
        for name in ("weight_decay", "warmup", "checkpoint_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")
        if not 0 < self.at_least <= 1:
            raise ValueError(f"at_least={self.at_least}: must be above 0 and at most 1")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate={self.learning_rate}: must be positive")


@dataclass(frozen=True, slots=True)
class TileTrainOptions:
    """How a classifier of tiles is trained on tiles' labels.

    Parameters
    ----------
    positive
        Share of a tile that must be tumour for it to count as tumour. Tiles with less, but some,
        count as neither.
    per_slide
        Tiles of tumour, and as many of normal tissue, drawn from a slide; and the most that a round
        adds of a slide's false positives.
    rounds
        Rounds of hard negatives: the worst false positives of the training slides are added, and
        training goes on. 0 for none.
    epochs
        Passes over the drawn tiles in a round, at most.
    patience
        Epochs without a lower validation loss before a round stops.
    learning_rate
        AdamW's.
    weight_decay
        AdamW's.
    batch_tiles
        Tiles per step; fewer where the tiles are few.
    hidden
        Width of the hidden layer; 0 for logistic regression.
    dropout
        Of the hidden layer.
    smoothing
        Share of a label that is given to both classes alike: it keeps scores from saturating at 0
        and 1, where neither slides nor detections could be told apart any more.
    k
        A slide's score is the mean over so many of its highest tiles.
    device
        auto (CUDA where there is one, else the CPU), cpu, cuda.
    """

    positive: float = 0.5
    per_slide: int = 1000
    rounds: int = 2
    epochs: int = 20
    patience: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch_tiles: int = 256
    hidden: int = 256
    dropout: float = 0.25
    smoothing: float = 0.05
    k: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        for name in ("per_slide", "epochs", "patience", "batch_tiles", "k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("rounds", "hidden", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")
        if not 0 < self.positive <= 1:
            raise ValueError(f"positive={self.positive}: must be above 0 and at most 1")
        for name in ("dropout", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 0 and below 1")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate={self.learning_rate}: must be positive")
