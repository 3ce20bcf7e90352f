"""What a model says of a slide, in words for its reader."""

from __future__ import annotations

from tiling.nodes import Json
from tiling.store import Prediction


def positive_score(attrs: Json) -> tuple[str, float, float | None]:
    """Return the positive output's name, its score, and the operating point if there is one."""
    scores = attrs["scores"]
    name = str(attrs.get("positive", list(scores)[-1]))
    point = attrs.get("operating_point")
    return name, float(scores[name]), None if point is None else float(point)


def score_text(prediction: Prediction) -> str:
    """Return the slide's score, whether it is calibrated, and its side of the operating point.

    Rich text, a line each.
    """
    attrs = prediction.attrs
    name, score, point = positive_score({**attrs, "scores": prediction.scores})
    calibrated = "calibrated probability" if attrs.get("calibrated") else "score, not calibrated"
    lines = [f"<b>{name} {score:.3f}</b> ({calibrated}); answer: {prediction.label}"]
    if point is not None:
        side = "positive: at or above" if score >= point else "negative: below"
        lines.append(f"{side} the operating point {point:.3f}")
    else:
        lines.append("this model has no operating point")
    if attrs.get("within"):
        lines.append(f"of {attrs['within']['tiles']} tiles inside outlines, not of the slide")
    if attrs.get("seen_in_training"):
        lines.append("<b>The model was trained on this slide.</b>")
    lines.append("Research use only.")
    return "<br>".join(lines)
