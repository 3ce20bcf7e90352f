"""What every MIL head must do; a head's test class inherits this and sets `head`."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from mil_models import MILHead, MILOutput, create_head
from mil_models.errors import EmptyBagError, MissingCoordsError
from mil_models.tasks import cross_entropy

DIM, CLASSES, BAGS, INSTANCES = 24, 3, 3, 23
TARGET = torch.tensor([0, 2, 1])


class HeadContract:
    head: ClassVar[str]
    arguments: ClassVar[dict[str, Any]] = {}
    bf16_tolerance: ClassVar[float] = 0.02
    """Largest difference of logits, relative to the largest, from float32's."""

    @pytest.fixture
    def model(self) -> MILHead:
        torch.manual_seed(0)
        return create_head(self.head, dim=DIM, classes=CLASSES, **self.arguments).eval()

    @pytest.fixture
    def bag(self) -> Tensor:
        return torch.randn(BAGS, INSTANCES, DIM, generator=torch.Generator().manual_seed(1))

    @pytest.fixture
    def coords(self) -> Tensor:
        return self.places(INSTANCES).expand(BAGS, -1, -1)

    @pytest.fixture
    def mask(self) -> Tensor:
        """Real instances among padding: 15, all and 7 of them."""
        mask = torch.ones(BAGS, INSTANCES, dtype=torch.bool)
        mask[0, 3:9] = False
        mask[0, 21:] = False
        mask[2, :16] = False
        return mask

    def places(self, instances: int) -> Tensor:
        """Return x0, y0 of so many tiles, row by row of a slide that is 400 tiles wide."""
        index = torch.arange(instances)
        wide = min(instances, 5) if instances < 1000 else 400
        return torch.stack([index % wide, index // wide], dim=1)[None] * 512 + 1024

    def full(self, bag: Tensor) -> Tensor:
        return torch.ones(bag.shape[:2], dtype=torch.bool)

    def test_shapes(self, model: MILHead, bag: Tensor, coords: Tensor) -> None:
        output = model(bag, self.full(bag), coords=coords)
        assert output.logits.shape == (BAGS, CLASSES)
        assert (output.attention is not None) is model.has_attention
        if output.attention is not None:
            branches = CLASSES if model.attention_of_classes else 1
            assert output.attention.shape == (BAGS, branches, INSTANCES)
        if output.instance_logits is not None:
            assert output.instance_logits.shape == (BAGS, INSTANCES, CLASSES)

    def test_attention_sums_to_one_over_real_instances(
        self, model: MILHead, bag: Tensor, mask: Tensor, coords: Tensor
    ) -> None:
        attention = model(bag, mask, coords=coords).attention
        if not model.has_attention:
            assert attention is None
            return
        assert torch.allclose(attention.sum(dim=2), torch.tensor(1.0))
        assert (attention.transpose(1, 2)[~mask] == 0).all()
        assert (attention >= 0).all()

    def test_padding_changes_nothing(
        self, model: MILHead, bag: Tensor, mask: Tensor, coords: Tensor
    ) -> None:
        """A bag among padding is the bag by itself; padding holds huge values here."""
        padded = bag.masked_fill(~mask.unsqueeze(2), 1e3)
        places = coords.masked_fill(~mask.unsqueeze(2), -7777)
        output = model(padded, mask, coords=places)
        losses = []
        for b in range(BAGS):
            real = mask[b]
            own = bag[b : b + 1, real]
            alone = model(own, self.full(own), coords=coords[b : b + 1, real])
            assert torch.allclose(output.logits[b], alone.logits[0], atol=1e-5)
            if alone.attention is not None:
                assert torch.allclose(output.attention[b][:, real], alone.attention[0], atol=1e-6)
            if alone.instance_logits is not None:
                found = output.instance_logits[b][real]
                assert torch.allclose(found, alone.instance_logits[0], atol=1e-5)
            losses.append(model.loss(alone, TARGET[b : b + 1], cross_entropy))
        together = model.loss(output, TARGET, cross_entropy)
        assert torch.allclose(together, torch.stack(losses).mean(), atol=1e-5)

    def test_order_changes_nothing_exactly_where_declared(
        self, model: MILHead, bag: Tensor, coords: Tensor
    ) -> None:
        order = torch.randperm(INSTANCES, generator=torch.Generator().manual_seed(2))
        one = model(bag, self.full(bag), coords=coords)
        other = model(bag[:, order], self.full(bag), coords=coords[:, order])
        same = torch.allclose(one.logits, other.logits, atol=1e-5)
        assert same is model.permutation_equivariant
        if same and one.attention is not None:
            assert torch.allclose(one.attention[:, :, order], other.attention, atol=1e-6)
        if same and one.instance_logits is not None:
            expected = one.instance_logits[:, order]
            assert torch.allclose(expected, other.instance_logits, atol=1e-5)

    def test_a_bag_without_instances_is_refused(
        self, model: MILHead, bag: Tensor, coords: Tensor
    ) -> None:
        mask = self.full(bag)
        mask[1] = False
        with pytest.raises(EmptyBagError):
            model(bag, mask, coords=coords)
        with pytest.raises(EmptyBagError):
            model(bag[:, :0], mask[:, :0], coords=coords[:, :0])

    def test_coords_are_asked_for_where_they_are_needed(self, model: MILHead, bag: Tensor) -> None:
        if model.needs_coords:
            with pytest.raises(MissingCoordsError, match="coords"):
                model(bag, self.full(bag))
        else:
            assert torch.isfinite(model(bag, self.full(bag)).logits).all()

    def test_gradients_reach_every_parameter_and_are_finite(
        self, model: MILHead, bag: Tensor, mask: Tensor, coords: Tensor
    ) -> None:
        model.train()
        generator = torch.Generator().manual_seed(3)
        output = model(bag, mask, coords=coords, generator=generator)
        model.loss(output, TARGET, cross_entropy).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.any(), name

    def test_bfloat16_is_close_to_float32(
        self, model: MILHead, bag: Tensor, mask: Tensor, coords: Tensor
    ) -> None:
        with torch.no_grad():
            exact = model(bag, mask, coords=coords)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(bag, mask, coords=coords)
            loss = model.loss(rough, TARGET, cross_entropy)
        loss.backward()
        assert torch.isfinite(loss)
        limit = self.bf16_tolerance * max(float(exact.logits.abs().max()), 1.0)
        assert (rough.logits.detach().float() - exact.logits).abs().max() < limit
        if rough.attention is not None:
            total = rough.attention.float().sum(dim=2)
            assert torch.allclose(total, torch.tensor(1.0), atol=1e-3)

    @pytest.mark.parametrize("instances", [1, 2, 100_000])
    def test_any_number_of_instances(self, model: MILHead, instances: int) -> None:
        bag = torch.randn(1, instances, DIM, generator=torch.Generator().manual_seed(4))
        with torch.inference_mode():
            output = model(bag, self.full(bag), coords=self.places(instances))
            assert torch.isfinite(output.logits).all()
            assert torch.isfinite(model.loss(output, TARGET[1:2], cross_entropy))
        if output.attention is not None:
            assert torch.allclose(output.attention.sum(dim=2), torch.tensor(1.0), atol=1e-4)

    def test_a_single_instance_trains(self, model: MILHead, bag: Tensor, coords: Tensor) -> None:
        model.train()
        output = model(bag[:1, :1], self.full(bag[:1, :1]), coords=coords[:1, :1])
        model.loss(output, TARGET[:1], cross_entropy).backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert grads
        assert all(torch.isfinite(grad).all() for grad in grads)

    def test_the_generator_decides_all_that_is_random(
        self, model: MILHead, bag: Tensor, coords: Tensor
    ) -> None:
        """Same seed, same bits, whatever the process's own generator did; and none is random."""

        def logits(seed: int) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            output: MILOutput = model(bag, self.full(bag), coords=coords, generator=generator)
            return output.logits

        model.train()
        torch.manual_seed(5)
        one = logits(1)
        torch.manual_seed(6)
        assert torch.equal(one, logits(1))
        assert not torch.equal(one, logits(2))
        model.eval()
        assert torch.equal(logits(1), logits(2))

    def test_state_dict_round_trip(self, model: MILHead, bag: Tensor, coords: Tensor) -> None:
        again = create_head(self.head, dim=DIM, classes=CLASSES, **self.arguments).eval()
        again.load_state_dict(model.state_dict(), strict=True)
        one = model(bag, self.full(bag), coords=coords).logits
        assert torch.equal(again(bag, self.full(bag), coords=coords).logits, one)

    def test_one_logit(self, bag: Tensor, mask: Tensor, coords: Tensor) -> None:
        """Regression and Cox ask for one number of each slide."""
        model = create_head(self.head, dim=DIM, classes=1, **self.arguments)
        if model.needs_classes:
            return
        output = model(bag, mask, coords=coords)
        loss = model.loss(output, torch.rand(BAGS), lambda x, t: (x[:, 0] - t).square())
        loss.backward()
        assert torch.isfinite(loss)
