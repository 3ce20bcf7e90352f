from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mil_models import losses

LOGITS = torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]])
TARGET = torch.tensor([0, 2])
WEIGHTS = torch.tensor([1.0, 2.0, 3.0])


def probabilities() -> np.ndarray:
    shifted = np.exp(LOGITS.double().numpy())
    return shifted / shifted.sum(axis=1, keepdims=True)


def test_cross_entropy_weighs_a_lone_bag() -> None:
    p = probabilities()
    expected = [-math.log(p[0, 0]), -3 * math.log(p[1, 2])]
    found = losses.cross_entropy(LOGITS, TARGET, class_weights=WEIGHTS)
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_soft_labels_with_one_class_are_hard_labels() -> None:
    soft = torch.nn.functional.one_hot(TARGET, 3).float()
    for loss in (losses.cross_entropy, losses.focal, losses.generalized_cross_entropy,
                 losses.symmetric_cross_entropy):  # fmt: skip
        hard = loss(LOGITS, TARGET, class_weights=WEIGHTS)
        assert loss(LOGITS, soft, class_weights=WEIGHTS).tolist() == pytest.approx(hard.tolist())


def test_focal_loss_is_its_formula() -> None:
    """Lin et al. 2017, equation 4; gamma 0 is cross-entropy."""
    p = probabilities()[[0, 1], [0, 2]]
    assert losses.focal(LOGITS, TARGET).tolist() == pytest.approx(-((1 - p) ** 2) * np.log(p))
    plain = losses.cross_entropy(LOGITS, TARGET).tolist()
    assert losses.focal(LOGITS, TARGET, gamma=0.0).tolist() == pytest.approx(plain)


def test_generalized_cross_entropy_is_between_cross_entropy_and_absolute_error() -> None:
    """Zhang and Sabuncu 2018, section 3.2: q to 0 is cross-entropy, q = 1 the absolute error."""
    p = probabilities()[[0, 1], [0, 2]]
    found = losses.generalized_cross_entropy(LOGITS, TARGET)
    assert found.tolist() == pytest.approx((1 - p**0.7) / 0.7)
    assert losses.generalized_cross_entropy(LOGITS, TARGET, q=1.0).tolist() == pytest.approx(1 - p)
    near = losses.generalized_cross_entropy(LOGITS.double(), TARGET, q=1e-5)
    assert near.tolist() == pytest.approx(-np.log(p), abs=1e-3)


def test_symmetric_cross_entropy_is_its_formula() -> None:
    """Wang et al. 2019: with one class, RCE is -A (1 - p), A = log 0 := -4."""
    p = probabilities()[[0, 1], [0, 2]]
    expected = 0.1 * -np.log(p) + 4 * (1 - p)
    assert losses.symmetric_cross_entropy(LOGITS, TARGET).tolist() == pytest.approx(expected)


def test_unknown_labels_add_nothing_and_give_no_gradient() -> None:
    logits = torch.tensor([[0.0, 5.0]], requires_grad=True)
    loss = losses.binary_cross_entropy(logits, torch.tensor([[1.0, math.nan]]))
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(math.log(2) / 2)
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([-0.25, 0.0])


def test_corn_counts_the_steps_that_a_grade_reaches() -> None:
    """Grade 1 of 0 to 3 reaches step 0 (above it) and step 1 (not above it), not step 2."""
    logits = torch.tensor([[0.3, -0.2, 9.0]])
    sigmoid = 1 / (1 + np.exp(-np.array([0.3, -0.2])))
    expected = -(math.log(sigmoid[0]) + math.log(1 - sigmoid[1])) / 3
    assert losses.corn(logits, torch.tensor([1])).item() == pytest.approx(expected)


def test_corn_agrees_with_its_authors() -> None:
    """coral-pytorch divides by the number of terms of the batch, not by the steps of a bag."""
    peer = pytest.importorskip("coral_pytorch.losses")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 4, generator=generator)
    target = torch.randint(0, 5, (20,), generator=generator)
    terms = sum(int((target >= step).sum()) for step in range(4))
    found = losses.corn(logits, target).sum() * 4 / terms
    assert found.item() == pytest.approx(peer.corn_loss(logits, target, 5).item(), rel=1e-5)


def test_corn_probabilities_are_products_of_the_steps() -> None:
    logits = torch.tensor([[math.log(3), 0.0]])  # steps 3/4 and 1/2
    assert losses.corn_probabilities(logits)[0].tolist() == pytest.approx([0.25, 0.375, 0.375])


def test_cox_by_hand() -> None:
    """Events at 1 and 3, censored at 2: both sums run over who is still at risk."""
    risk = torch.tensor([0.5, -0.3, 0.2])
    r = np.exp(risk.double().numpy())
    expected = -(math.log(r[0] / r.sum()) + math.log(r[2] / r[2])) / 2
    found = losses.cox(risk, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, False, True]))
    assert found.item() == pytest.approx(expected)


def test_cox_ties_by_efron() -> None:
    """Two events at 1 of three at risk: the second denominator holds half of the tied risks."""
    risk = torch.tensor([0.5, -0.3, 0.2])
    r = np.exp(risk.double().numpy())
    log = math.log(r[0]) + math.log(r[1])
    expected = -(log - math.log(r.sum()) - math.log(r.sum() - (r[0] + r[1]) / 2)) / 2
    found = losses.cox(risk, torch.tensor([1.0, 1.0, 3.0]), torch.tensor([True, True, False]))
    assert found.item() == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ties", [False, True])
def test_cox_agrees_with_torchsurv(ties: bool) -> None:
    """By the sum: with ties, the peer's mean divides by the number of distinct times."""
    peer = pytest.importorskip("torchsurv.loss.cox")
    generator = torch.Generator().manual_seed(1)
    risk = torch.randn(40, generator=generator)
    time = torch.rand(40, generator=generator) * 5 + 0.1
    time = time.ceil() if ties else time
    event = torch.rand(40, generator=generator) < 0.6
    expected = peer.neg_partial_log_likelihood(
        risk[:, None], event, time, ties_method="efron", reduction="sum"
    )
    found = losses.cox(risk, time, event) * event.sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_cox_without_events_is_zero_and_still_part_of_the_graph() -> None:
    risk = torch.tensor([0.5, -0.3], requires_grad=True)
    loss = losses.cox(risk, torch.tensor([1.0, 2.0]), torch.tensor([False, False]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert risk.grad is not None
    assert risk.grad.tolist() == [0, 0]


def test_discrete_hazard_by_hand() -> None:
    """Hazards 1/4, 1/2, 1/2: an event in the second interval, and one censored after two."""
    logits = torch.tensor([[-math.log(3), 0.0, 0.0]] * 2)
    found = losses.discrete_hazard(logits, torch.tensor([1, 2]), torch.tensor([True, False]))
    assert found.tolist() == pytest.approx([-math.log(0.75 * 0.5), -math.log(0.75 * 0.5)])
