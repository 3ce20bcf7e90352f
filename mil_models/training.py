"""Train MIL heads: by patient, with early stopping, the same result for the same seed."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from mil_models.bags import BagCache, cache_bytes, check_readable, common_contract
from mil_models.checkpoint import INTENDED_USE, SavedHead, check_new, save_model, source_of
from mil_models.heads import create_head
from mil_models.labels import LabelledSlide, read_answers
from mil_models.loop import (
    Learned,
    Lesson,
    OnEpoch,
    create_fabric,
    seed_of,
    train_head,
)
from mil_models.options import SplitOptions, TaskOptions, TrainOptions
from mil_models.out_of_fold import fold_metrics, held_out_card, tested_scores
from mil_models.resume import ResumeFolder
from mil_models.splits import Split, choose_splits, split_rows
from mil_models.tables import (
    epoch_rows,
    issue_rows,
    prediction_rows,
    require_tensorboard,
    write_events,
)
from mil_models.tasks import Task, task_from_json
from tiling.nodes import Json
from tiling.store import SlideStore


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training: where the model is, and its out-of-fold figures."""

    folder: Path
    metrics: Json


def train(
    stores: Sequence[SlideStore],
    labels: str | Path,
    out: str | Path,
    *,
    head: str = "abmil",
    task: str | Path = "binary",
    folds: int = 5,
    seed: int = 0,
    embeddings: str | None = None,
    allow_missing: bool = False,
    head_arguments: Mapping[str, Any] | None = None,
    on_progress: OnEpoch | None = None,
    **options: Any,
) -> TrainResult:
    """Train a head with patient-level cross-validation and write the model folder.

    A training that was killed goes on where it was when it is started again, and ends with the
    same bits.

    Parameters
    ----------
    stores
        Slides with finished embeddings; slides without tiles are left out, with a warning.
    labels
        CSV of labels, see :func:`mil_models.labels.read_answers`.
    out
        Model folder to make.
    head
        Name of the head.
    task
        binary, multiclass, multilabel, ordinal, regression, survival; or a TOML file of several,
        see :func:`mil_models.tasks.create_task`.
    folds
        Folds over patients; 0 trains one model on everything.
    seed
        Seed of splits, initial weights, dropout and the order of slides.
    embeddings
        Name of the embeddings, where the stores hold several.
    head_arguments
        What the head takes beyond its size, e.g. ``{"dropout": 0.5}``.
    options
        Fields of :class:`mil_models.options.TaskOptions`,
        :class:`mil_models.options.TrainOptions` and :class:`mil_models.options.SplitOptions`.

    Raises
    ------
    LabelTableError
        The table is wrong or does not fit the stores.
    ModelMismatchError
        The slides were embedded differently.
    ModelError
        There is a model at `out` already.
    """
    asked, settings, parting = _sorted_options(options)
    if settings.tensorboard:
        require_tensorboard()
    folder = Path(out)
    check_new(folder)  # now, not when hours of training are to be saved
    slides, question = read_answers(
        labels, stores, task, asked, allow_missing=allow_missing, bag=settings.bag
    )
    contract = common_contract([s for slide in slides for s in slide.stores], embeddings)
    check_readable(slides, embeddings)
    targets = question.targets([slide.readings for slide in slides])
    splits = choose_splits(slides, folds, seed, parting)
    lessons = _lessons(slides, question, targets, splits, settings, seed)
    arguments = dict(head_arguments or {})
    card = {
        "task": question.to_json(),
        "classes": list(question.outputs),
        "head": {"name": head, "arguments": arguments},
        "folds": len(lessons) // settings.seeds,
        "encoder": contract["encoder"],
        "tiles": contract["tiles"],
    }
    _check_head(head, question, contract["encoder"]["width"], arguments)
    fabric = create_fabric(settings)
    identity = {
        **card, "seed": seed, "options": _lasting(settings),
        "slides": [[source_of(s) for s in slide.stores] for slide in slides],
        "splits": [asdict(lesson.split) for lesson in lessons], "targets": repr(targets.tolist()),
    }  # fmt: skip
    resume = ResumeFolder(folder, identity, writes=fabric.is_global_zero)
    try:
        cache = BagCache(embeddings, limit_bytes=_cache_bytes(settings))
        learned = [
            _learn(lesson, card, cache, settings, fabric, resume, on_progress) for lesson in lessons
        ]
        scores = tested_scores(lessons, learned, cache)
        rows = prediction_rows(slides, question, scores)
        metrics = fold_metrics(rows, question, seed)
        card |= held_out_card(
            rows, scores, question, method=settings.calibration, rule=settings.rule,
            at_least=settings.at_least,
        )  # fmt: skip
        card |= {
            "training": _training_summary(slides, question, lessons, learned, settings, seed),
            "metrics": metrics,
            "versions": {n: importlib.metadata.version(n) for n in ("numpy", "timm", "torch")},
            "intended_use": INTENDED_USE,
        }
        saved = [
            SavedHead(lesson.name.replace(" ", "_"), one.head, one.task.to_json())
            for lesson, one in zip(lessons, learned, strict=True)
        ]
        if fabric.is_global_zero:
            tables = {
                "epochs.csv": epoch_rows(lessons, learned),
                "splits.csv": split_rows(slides, splits),
            }
            issues = issue_rows(slides, question, scores)
            if issues:
                tables["label_issues.csv"] = issues
            save_model(folder, saved, card, rows, tables)
            resume.remove()
            if settings.tensorboard:
                write_events(folder / "tensorboard", lessons, learned)
    finally:
        resume.close()
    return TrainResult(folder, metrics)


def _sorted_options(
    options: Mapping[str, Any],
) -> tuple[TaskOptions, TrainOptions, SplitOptions]:
    kinds = TaskOptions, TrainOptions, SplitOptions
    names = [{f.name for f in fields(kind)} for kind in kinds]
    unknown = set(options).difference(*names)
    if unknown:
        raise TypeError(f"train() takes no {', '.join(sorted(unknown))}")
    own = [{k: v for k, v in options.items() if k in known} for known in names]
    return TaskOptions(**own[0]), TrainOptions(**own[1]), SplitOptions(**own[2])


def _lessons(
    slides: Sequence[LabelledSlide],
    question: Task,
    targets: torch.Tensor,
    splits: Sequence[Split],
    settings: TrainOptions,
    seed: int,
) -> list[Lesson]:
    """Return what each head learns; a fold that cannot be learned from is an error here."""
    found = []
    for number, split in enumerate(splits):
        fitted = question.fitted(targets[list(split.train)])
        for member in range(settings.seeds):
            name = f"fold {number}" if settings.seeds == 1 else f"fold {number} seed {member}"
            own = seed_of(seed, number) if not member else seed_of(seed, number, member)
            found.append(Lesson(name, split, slides, fitted, targets, own))
    return found


def _check_head(name: str, question: Task, width: int, arguments: Mapping[str, Any]) -> None:
    """Make sure that there is such a head and that it can learn the task."""
    with torch.random.fork_rng(devices=[]):
        made = create_head(name, dim=width, classes=question.logits, **arguments)
    if made.needs_classes and not question.has_classes:
        raise ValueError(
            f"head={name!r}: its loss needs one class for each slide, which {question.kind} has "
            "not; choose another --head"
        )


def _learn(
    lesson: Lesson,
    card: Json,
    cache: BagCache,
    settings: TrainOptions,
    fabric: Fabric,
    resume: ResumeFolder,
    on_progress: OnEpoch | None,
) -> Learned:
    """Train one head, or load it where an earlier process has finished it."""
    done = f"{lesson.name} done"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lesson.seed)
        head = create_head(
            card["head"]["name"], dim=card["encoder"]["width"], classes=lesson.task.logits,
            **card["head"]["arguments"],
        )  # fmt: skip
        saved = resume.load(done)
        if saved is not None:
            head.load_state_dict(saved[0])
            record = saved[1]
            task = task_from_json(record["task"])
            return Learned(head.eval(), task, record["epoch"], record["history"])
        learned = train_head(
            head, lesson, cache, settings, fabric, resume=resume,
            on_epoch=on_progress if fabric.is_global_zero else None,
        )  # fmt: skip
    learned.head.cpu()
    record = {"task": learned.task.to_json(), "epoch": learned.epoch, "history": learned.history}
    resume.save(done, learned.head.state_dict(), record)
    resume.drop(lesson.name)
    return learned


def _training_summary(
    slides: Sequence[LabelledSlide],
    question: Task,
    lessons: Sequence[Lesson],
    learned: Sequence[Learned],
    settings: TrainOptions,
    seed: int,
) -> Json:
    return {
        "slides": sum(len(slide.stores) for slide in slides),
        "patients": len({slide.patient_id for slide in slides}),
        "slides_per_class": dict(sorted(Counter(slide.stratum for slide in slides).items())),
        "seed": seed,
        "epochs": [one.epoch for one in learned],
        "early_stopping": [bool(lesson.split.validation) for lesson in lessons],
        "options": _lasting(settings),
    }


def _cache_bytes(settings: TrainOptions) -> int:
    """Return how much each of the processes may keep."""
    asked = settings.cache_gb
    return int((cache_bytes() if asked is None else asked * 1e9) / settings.devices)


def _lasting(settings: TrainOptions) -> Json:
    """Return the options that change the result."""
    plain = asdict(settings)
    for name in ("tensorboard", "checkpoint_seconds", "cache_gb"):
        del plain[name]
    return plain
