"""The losses of bags: logits and targets in, one number per bag out."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

FOCAL_GAMMA = 2.0
GCE_Q = 0.7
SCE_ALPHA, SCE_BETA, SCE_LOG_ZERO = 0.1, 1.0, -4.0


def cross_entropy(logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Return each bag's cross-entropy times the weight of its class, shape ``(B,)``.

    (The weighted mean of torch would let the weight of a lone bag cancel out.)

    Parameters
    ----------
    logits
        Shape ``(B, C)``.
    target
        Class indices, int64, shape ``(B,)``; or probabilities, shape ``(B, C)``.
    class_weights
        Shape ``(C,)``.
    """
    return F.cross_entropy(logits, target, weight=class_weights, reduction="none")


def focal(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor | None = None,
    gamma: float = FOCAL_GAMMA,
) -> Tensor:
    """Return the focal loss of each bag: ``-(1 - p)^gamma log p`` of its class.

    References
    ----------
    Lin et al. 2017, arXiv:1708.02002, equation 4.
    """
    log_p = logits.log_softmax(dim=1)
    terms = -((1 - log_p.exp()) ** gamma) * log_p
    return (_shares(target, logits) * _weighted(terms, class_weights)).sum(dim=1)


def generalized_cross_entropy(
    logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None, q: float = GCE_Q
) -> Tensor:
    """Return ``(1 - p^q) / q`` of each bag's class: between cross-entropy (q to 0) and MAE (1).

    References
    ----------
    Zhang and Sabuncu 2018, arXiv:1805.07836, equation 6.
    """
    terms = (1 - (q * logits.log_softmax(dim=1)).exp()) / q
    return (_shares(target, logits) * _weighted(terms, class_weights)).sum(dim=1)


def symmetric_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor | None = None,
    alpha: float = SCE_ALPHA,
    beta: float = SCE_BETA,
) -> Tensor:
    """Return ``alpha CE + beta RCE``, where RCE swaps label and prediction and log 0 is -4.

    References
    ----------
    Wang et al. 2019, arXiv:1908.06112, equation 6 and section 4 (A = -4).
    """
    shares = _shares(target, logits)
    if class_weights is not None:
        weight = (shares * class_weights).sum(dim=1)
    else:
        weight = torch.ones_like(shares[:, 0])
    reverse = -(logits.softmax(dim=1) * shares.log().clamp(min=SCE_LOG_ZERO)).sum(dim=1)
    return alpha * cross_entropy(logits, target, class_weights=class_weights) + (
        beta * weight * reverse
    )


def binary_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return each bag's mean over labels of the binary cross-entropy; NaN targets count as 0.

    Parameters
    ----------
    logits
        Shape ``(B, L)``.
    target
        0, 1 or between, shape ``(B, L)``; NaN where nothing is known.
    weights
        Weight of a negative and of a positive answer to each label, shape ``(2, L)``.
    """
    known = torch.isfinite(target)
    answer = torch.where(known, target, torch.zeros_like(target))
    loss = F.binary_cross_entropy_with_logits(logits, answer, reduction="none")
    if weights is not None:
        loss = loss * (weights[0] * (1 - answer) + weights[1] * answer)
    return (loss * known).sum(dim=1) / logits.shape[1]


def corn(logits: Tensor, target: Tensor) -> Tensor:
    """Return the CORN loss of each bag: the binary losses of the conditional steps, their mean.

    Logit k is that of ``P(grade > k | grade > k - 1)``; a step counts for the bags that reach it.

    Parameters
    ----------
    logits
        Shape ``(B, G - 1)`` for G grades.
    target
        Grades from 0, int64, shape ``(B,)``.

    References
    ----------
    Shi, Cao, Raschka 2021, arXiv:2111.08851, equation 5 (there divided by the number of terms of
    the whole batch, here by the steps, so that a bag's loss does not depend on others).
    """
    steps = torch.arange(logits.shape[1], device=logits.device)
    reached = target[:, None] >= steps
    above = (target[:, None] > steps).to(logits.dtype)
    loss = F.binary_cross_entropy_with_logits(logits, above, reduction="none")
    return (loss * reached).sum(dim=1) / logits.shape[1]


def corn_probabilities(logits: Tensor) -> Tensor:
    """Return the probability of each grade, shape ``(B, G)``, from CORN's logits ``(B, G - 1)``."""
    above = logits.sigmoid().cumprod(dim=1)  # P(grade > k)
    one, zero = torch.ones_like(above[:, :1]), torch.zeros_like(above[:, :1])
    return torch.cat([one, above], dim=1) - torch.cat([above, zero], dim=1)


def cox(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Return the negative partial log likelihood of a set of bags, mean over events; 0-d.

    Ties by Efron's rule; 0, connected to `risk`, where there is no event.

    Parameters
    ----------
    risk
        Logarithm of the hazard ratio, shape ``(B,)``.
    time
        Time of the event or of the last look, shape ``(B,)``.
    event
        Whether the event was seen, bool, shape ``(B,)``.

    References
    ----------
    Cox 1975, doi:10.1093/biomet/62.2.269; Efron 1977, doi:10.1080/01621459.1977.10480613.
    """
    if not bool(event.any()):
        return risk.sum() * 0
    # Sorted from late to early, the bags at risk at a time are those up to its last tie.
    order = torch.argsort(time, descending=True, stable=True)
    risk, time, event = risk[order], time[order], event[order]
    at_risk = torch.logcumsumexp(risk, dim=0)
    _, counts = torch.unique_consecutive(time, return_counts=True)
    last = counts.cumsum(0) - 1
    total = -(risk * event).sum()
    start = 0
    for end in (last + 1).tolist():
        tied = risk[start:end][event[start:end]]
        if len(tied):
            whole = at_risk[end - 1]
            share = torch.arange(len(tied), device=risk.device, dtype=risk.dtype) / len(tied)
            # log(sum over the risk set - share of the tied events), without overflow
            inside = 1 - share * (tied.logsumexp(0) - whole).exp()
            total = total + (whole + inside.clamp(min=1e-12).log()).sum()
        start = end
    return total / event.sum()


def discrete_hazard(logits: Tensor, bins: Tensor, event: Tensor) -> Tensor:
    """Return each bag's negative log likelihood under a hazard for each interval of time.

    Parameters
    ----------
    logits
        Of the hazard in each interval, given that it was reached, shape ``(B, T)``.
    bins
        Intervals survived, int64 from 0 to T, shape ``(B,)``; the event, if any, is in the next.
    event
        Whether the event was seen, bool, shape ``(B,)``.

    References
    ----------
    Gensheimer and Narasimhan 2019, doi:10.7717/peerj.6257, equation 3.
    """
    steps = torch.arange(logits.shape[1], device=logits.device)
    survived = steps < bins[:, None]
    failed = (steps == bins[:, None]) & event[:, None]
    return -(F.logsigmoid(-logits) * survived + F.logsigmoid(logits) * failed).sum(dim=1)


def _shares(target: Tensor, logits: Tensor) -> Tensor:
    """Return the target as probabilities ``(B, C)``."""
    if target.ndim == logits.ndim:
        return target
    return F.one_hot(target, logits.shape[1]).to(logits.dtype)


def _weighted(terms: Tensor, class_weights: Tensor | None) -> Tensor:
    return terms if class_weights is None else terms * class_weights
