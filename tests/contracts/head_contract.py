"""What every MIL head must do; a head's test class inherits this and sets `head`."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from mil_models import MILHead, create_head
from mil_models.errors import EmptyBagError
from mil_models.tasks import cross_entropy

DIM, CLASSES = 24, 3


class HeadContract:
    head: ClassVar[str]
    arguments: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def model(self) -> MILHead:
        torch.manual_seed(0)
        return create_head(self.head, dim=DIM, classes=CLASSES, **self.arguments).eval()

    @pytest.fixture
    def bag(self) -> torch.Tensor:
        return torch.randn(2, 9, DIM, generator=torch.Generator().manual_seed(1))

    def full(self, bag: torch.Tensor) -> torch.Tensor:
        return torch.ones(bag.shape[:2], dtype=torch.bool)

    def test_shapes(self, model: MILHead, bag: torch.Tensor) -> None:
        output = model(bag, self.full(bag))
        assert output.logits.shape == (2, CLASSES)
        assert (output.attention is not None) is model.has_attention

    def test_attention_sums_to_one_over_real_instances(
        self, model: MILHead, bag: torch.Tensor
    ) -> None:
        if not model.has_attention:
            return
        mask = self.full(bag)
        mask[0, 5:] = False
        attention = model(bag, mask).attention
        assert attention.shape[::2] == (2, 9)
        assert torch.allclose(attention.sum(dim=2), torch.tensor(1.0))
        assert (attention[0, :, 5:] == 0).all()
        assert (attention >= 0).all()

    def test_padding_changes_nothing(self, model: MILHead, bag: torch.Tensor) -> None:
        padded = torch.cat([bag, torch.full((2, 4, DIM), 1e3)], dim=1)
        mask = self.full(padded)
        mask[:, 9:] = False
        expected = model(bag, self.full(bag)).logits
        assert torch.allclose(model(padded, mask).logits, expected, atol=1e-5)

    def test_order_changes_nothing_where_declared(self, model: MILHead, bag: torch.Tensor) -> None:
        if not model.permutation_equivariant:
            return
        order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
        one, other = model(bag, self.full(bag)), model(bag[:, order], self.full(bag))
        assert torch.allclose(one.logits, other.logits, atol=1e-5)
        if one.attention is not None:
            assert torch.allclose(one.attention[:, :, order], other.attention, atol=1e-6)

    def test_a_bag_without_instances_is_refused(self, model: MILHead, bag: torch.Tensor) -> None:
        mask = self.full(bag)
        mask[1] = False
        with pytest.raises(EmptyBagError):
            model(bag, mask)
        with pytest.raises(EmptyBagError):
            model(bag[:, :0], mask[:, :0])

    def test_gradients_reach_every_parameter_and_are_finite(
        self, model: MILHead, bag: torch.Tensor
    ) -> None:
        model.train()
        model.loss(model(bag, self.full(bag)), torch.tensor([0, 2]), cross_entropy).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name

    @pytest.mark.parametrize("instances", [1, 100_000])
    def test_any_number_of_instances(self, model: MILHead, instances: int) -> None:
        bag = torch.randn(1, instances, DIM)
        with torch.inference_mode():
            assert torch.isfinite(model(bag, self.full(bag)).logits).all()

    def test_state_dict_round_trip(self, model: MILHead, bag: torch.Tensor) -> None:
        again = create_head(self.head, dim=DIM, classes=CLASSES, **self.arguments).eval()
        again.load_state_dict(model.state_dict(), strict=True)
        assert torch.equal(again(bag, self.full(bag)).logits, model(bag, self.full(bag)).logits)
