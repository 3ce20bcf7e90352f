"""Gather what the page of an evaluation shows, and write it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from viewers.evaluation import Section, write_evaluation

if TYPE_CHECKING:
    from mil_models.answers import Answers, ClassAnswers, LabelAnswers

SHOWN = {
    "auroc": "AUROC", "auprc": "AUPRC", "accuracy": "accuracy", "f1": "F1", "brier": "Brier score",
    "balanced_accuracy": "balanced accuracy", "kappa": "Cohen's kappa",
    "quadratic_kappa": "quadratic-weighted kappa", "c_index": "c-index", "r2": "R²",
    "mean_auc": "mean time-dependent AUC", "integrated_brier": "integrated Brier score",
}  # fmt: skip


def write_evaluation_page(path: Path, found: Mapping[str, Any], answers: Answers) -> Path:
    """Write ``evaluation.html`` about what :func:`wsi_pipeline.evaluation.evaluate` found."""
    sections = [_metrics(found), *_charts(found, answers), *_calibration(found)]
    sections += [*_labels(found), *_point(found), *_comparison(found), *_subgroups(found)]
    warnings = [f"{name_of(k)}: {why}" for k, why in found["metrics"].get("reasons", {}).items()]
    if not found["out_of_fold"]:
        warnings.insert(0, "Whether the model was trained on these slides, the table does not say.")
    task = found["task"]
    if task == "binary":
        task += f", positive class {found['classes'][-1]}"
    subtitle = f"{task} · {found['slides']} slides of {found['patients']} patients"
    if found["without_prediction"]:
        subtitle += f" · {found['without_prediction']} slides without a prediction left out"
    parameters = {"options": found["options"], "versions": found["versions"]}
    return write_evaluation(
        path, title=f"Evaluation of {found['source']}", subtitle=subtitle, sections=sections,
        parameters=parameters, warnings=warnings,
    )  # fmt: skip


def name_of(figure: str) -> str:
    """Return what people call a figure.

    Examples
    --------
    >>> name_of("sensitivity_at_90_specificity"), name_of("tumour.auroc"), name_of("auroc_low")
    ('sensitivity at 90 % specificity', 'tumour AUROC', 'AUROC low')
    """
    label, dot, figure = figure.rpartition(".") if "." in figure else ("", "", figure)
    if figure in SHOWN:
        text = SHOWN[figure]
    else:
        stem, _, end = figure.rpartition("_")
        text = f"{SHOWN[stem]} {end}" if stem in SHOWN else figure.replace("_", " ")
    text = text.replace("at 90 ", "at 90 % ").replace("at 95 ", "at 95 % ")
    return f"{label} {text}" if dot else text


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _metrics(found: Mapping[str, Any]) -> Section:
    metrics = found["metrics"]
    rows = [
        (name_of(name), value, _interval(metrics.get(f"{name}_low"), metrics.get(f"{name}_high")))
        for name, value in metrics.items()
        if name not in ("slides", "patients", "reasons") and not name.endswith(("_low", "_high"))
    ]
    if "auroc_delong_low" in metrics:
        delong = _interval(metrics["auroc_delong_low"], metrics["auroc_delong_high"])
        rows.insert(1, ("AUROC, DeLong's interval", metrics["auroc"], delong))
    notes = ["Intervals: 95 %, patients drawn with replacement."]
    chance = found["chance"]
    if chance["p"] is not None:
        notes.append(
            f"Against chance ({chance['permutations']} permutations of patients): "
            f"{name_of(chance['figure'])} {chance['value']:.3f}, by chance {chance['chance']:.3f}, "
            f"p = {chance['p']:.2g}."
        )
    else:
        notes.append(f"Not tested against chance: {chance.get('reason', '')}.")
    return Section("Figures", tuple(notes), {}, ("figure", "value", "95 % interval"), rows)


def _charts(found: Mapping[str, Any], answers: Answers) -> list[Section]:
    from mil_models.answers import ClassAnswers, LabelAnswers, SurvivalAnswers
    from viewers import charts

    if isinstance(answers, SurvivalAnswers):
        return _survival(found)
    if not isinstance(answers, ClassAnswers | LabelAnswers):
        picture = charts.scatter_chart(answers.values, answers.predicted)
        return [Section("Predicted and true values", (), {"A point is a slide.": picture})]
    pictures = _class_curves(found, answers)
    if isinstance(answers, ClassAnswers):
        matrix = np.array(found["confusion"])
        pictures["Confusion: slides by what is (rows) and what was said"] = charts.confusion_chart(
            matrix, answers.classes
        )
    return [Section("Curves", (), pictures)] if pictures else []


def _class_curves(found: Mapping[str, Any], answers: ClassAnswers | LabelAnswers) -> dict[str, str]:
    from mil_models.evaluation import precision_recall_points, roc_points
    from viewers import charts

    roc, recall = roc_points(answers), precision_recall_points(answers)
    if not roc:
        return {}
    point = None
    chosen = found.get("operating_point", {})
    if chosen.get("sensitivity") is not None and chosen.get("specificity") is not None:
        point = 1 - chosen["specificity"], chosen["sensitivity"]
    area = {name: float(np.trapezoid(y, x)) for name, (x, y) in roc.items()}
    prevalence = None
    if found["task"] == "binary" and found["metrics"]["auroc"] is not None:
        prevalence = float(np.mean([row[1] for row in _positive_share(found)]))
    return {
        "ROC" + (", one class against the rest" if len(roc) > 1 else ""): charts.roc_chart(
            [charts.Curve(f"{name[:22]} {area[name]:.3f}", x, y) for name, (x, y) in roc.items()],
            point,
        ),
        "Precision and recall": charts.precision_recall_chart(
            [charts.Curve(name, x, y) for name, (x, y) in recall.items()], prevalence
        ),
    }


def _positive_share(found: Mapping[str, Any]) -> list[tuple[str, float]]:
    matrix = np.array(found["confusion"])
    return [("positive", float(matrix[1].sum() / matrix.sum()))]


def _survival(found: Mapping[str, Any]) -> list[Section]:
    from viewers import charts

    groups = found["risk_groups"]
    if groups["p"] is None:
        return [Section("Risk groups", (groups["reason"],))]
    curves = []
    for name, group in groups["groups"].items():
        title = f"{name} ({group['events']} of {group['slides']})"
        if "time" in group:
            x, y, low, high = (
                np.array([start, *group[key]])
                for key, start in (("time", 0.0), ("survival", 1.0), ("low", 1.0), ("high", 1.0))
            )
        else:
            x, y, low, high = np.array([0.0]), np.array([1.0]), None, None
        curves.append(charts.Curve(title, x, y, low, high))
    picture = charts.survival_chart(curves, f"log-rank p = {groups['p']:.2g}")
    caption = "Kaplan-Meier by predicted risk, parted at its median; in brackets events of slides"
    return [Section("Risk groups", (), {caption: picture})]


def _calibration(found: Mapping[str, Any]) -> list[Section]:
    from viewers import charts

    calibration = found.get("calibration")
    if calibration is None:
        return []
    kinds = [k for k in ("before", "temperature", "isotonic") if calibration.get(k)]
    notes = [f"Calibrations are fitted on {calibration['fitted_on']} than those judged."]
    notes += [f"{k.removesuffix('_reason')}: {calibration[k]}" for k in calibration
              if k.endswith("_reason")]  # fmt: skip
    rows = [
        (k, calibration[k]["ece"], calibration[k]["ece_equal_mass"], calibration[k]["brier"],
         calibration[k]["log_loss"])
        for k in kinds
    ]  # fmt: skip
    picture = charts.reliability_chart({k: calibration[k]["bins"] for k in kinds})
    columns = ("", "ECE, equal width", "ECE, equal mass", "Brier score", "log loss")
    caption = "Reliability: a point is a bin, its area the number of slides"
    return [Section("Calibration", tuple(notes), {caption: picture}, columns, rows)]


def _labels(found: Mapping[str, Any]) -> list[Section]:
    """Return calibration and operating point of each of several labels, a line each."""
    from viewers import charts

    labels = found.get("labels")
    if not labels:
        return []
    rows, bins, notes = [], {}, []
    for name, of in labels.items():
        calibration, point = of["calibration"], of["operating_point"]
        bins[name] = calibration["before"]["bins"]
        errors = [(calibration[k] or {}).get("ece") for k in ("before", "temperature", "isotonic")]
        chosen = point["chosen"] or {}
        rows.append((name, *errors, chosen.get("threshold"), point.get("sensitivity"),
                     point.get("specificity")))  # fmt: skip
        reasons = {calibration.get("temperature_reason"), point.get("reason")} - {None}
        notes += [f"{name}: {reason}." for reason in sorted(reasons)]
    notes.insert(0, "Fitted and chosen on other folds than those judged.")
    columns = ("label", "ECE", "ECE, temperature", "ECE, isotonic", "positive from", "sensitivity",
               "specificity")  # fmt: skip
    picture = charts.reliability_chart(bins)
    caption = "Reliability as predicted: a point is a bin, its area the number of slides"
    return [Section("Calibration and operating points", tuple(notes), {caption: picture}, columns,
                    rows)]  # fmt: skip


def _point(found: Mapping[str, Any]) -> list[Section]:
    point = found.get("operating_point")
    if point is None:
        return []
    if point["chosen"] is None:
        return [Section("Operating point", (point["reason"],))]
    chosen = point["chosen"]
    rule = chosen["rule"]
    if chosen["at_least"] is not None:
        rule += f" at least {chosen['at_least']:g}"
    notes = [
        f"Positive from a score of {chosen['threshold']:.4f} ({rule}); chosen on "
        f"{point['chosen_on']} than those judged below."
    ]
    if point["chosen_on"] == "other folds":
        notes.append("The threshold above is of all folds; each fold was judged by its own.")
    rows = [
        (name if len(name) > 3 else name.upper(), point[name],
         _interval(point[f"{name}_low"], point[f"{name}_high"]))
        for name in ("sensitivity", "specificity", "ppv", "npv")
    ]  # fmt: skip
    return [Section("Operating point", tuple(notes), {}, ("", "value", "95 % interval"), rows)]


def _comparison(found: Mapping[str, Any]) -> list[Section]:
    compared = found.get("comparison")
    if compared is None:
        return []
    rows = [
        (name_of(name), v["first"], v["second"], v["difference"], _interval(v["low"], v["high"]),
         v["p"], v.get("delong_p"))
        for name, v in compared["figures"].items()
    ]  # fmt: skip
    notes = [
        f"{compared['slides']} slides that both predict"
        + (f"; {compared['in_one_only']} in one table only" if compared["in_one_only"] else "")
        + ". p: the models' answers swapped patient by patient; intervals: the same draws of "
        "patients for both."
    ]
    columns = ("figure", found["source"], compared["with"], "difference", "95 % interval", "p",
               "p (DeLong)")  # fmt: skip
    return [Section(f"Compared with {compared['with']}", tuple(notes), {}, columns, rows)]


def _subgroups(found: Mapping[str, Any]) -> list[Section]:
    primary = found["chance"]["figure"]
    sections = []
    for column, groups in found["subgroups"].items():
        others = [n for n in ("balanced_accuracy", "sensitivity", "specificity", "brier")
                  if any(n in figures for figures in groups.values())]  # fmt: skip
        rows = [
            (group, f["slides"], f["patients"], f.get(primary),
             _interval(f.get(f"{primary}_low"), f.get(f"{primary}_high")),
             *(f.get(name) for name in others))
            for group, f in groups.items()
        ]  # fmt: skip
        columns = (column, "slides", "patients", name_of(primary), "95 % interval",
                   *map(name_of, others))  # fmt: skip
        sections.append(Section(f"By {column}", (), {}, columns, rows))
    return sections
