"""Our heads against torchmil's (Apache-2.0) with the same weights: outputs agree to 1e-5.

Where torchmil departs from the paper the test says how, and compares what is left: its DSMIL picks
the critical instance among padding too and its TransMIL takes no mask, so both are compared
without padding.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mil_models import MILHead, create_head

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its imports
    pytest.importorskip("torchmil", reason="torchmil is not installed (extra `test` brings it)")
    import torchmil.models as peers

DIM, HIDDEN, WIDTH = 20, 16, 8


def ours(name: str, **arguments: Any) -> MILHead:
    torch.manual_seed(0)
    return create_head(name, dim=DIM, classes=1, **arguments).eval()


def projection() -> nn.Sequential:
    return nn.Sequential(nn.Linear(DIM, HIDDEN), nn.ReLU())


def copy_weights(pairs: dict[nn.Module, nn.Module]) -> None:
    """Give each of their layers the weights of ours."""
    for theirs, own in pairs.items():
        theirs.load_state_dict(own.state_dict())


def copy_pool(theirs: nn.Module, own: nn.Module) -> None:
    copy_weights({theirs.fc1.module: own.value, theirs.fc2: own.score})
    if own.gate is not None:
        copy_weights({theirs.fc_gated.module: own.gate})


@pytest.fixture
def bag() -> Tensor:
    return torch.randn(3, 26, DIM, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask(bag: Tensor) -> Tensor:
    mask = torch.ones(bag.shape[:2], dtype=torch.bool)
    mask[0, 20:] = False
    mask[1, 3:9] = False
    return mask


@pytest.mark.parametrize("name", ["abmil", "abmil_plain"])
def test_abmil(name: str, bag: Tensor, mask: Tensor) -> None:
    """torchmil returns attention logits; its softmax is ours."""
    head = ours(name, hidden=HIDDEN, width=WIDTH)
    peer = peers.ABMIL((DIM,), att_dim=WIDTH, gated=name == "abmil", feat_ext=projection()).eval()
    copy_weights({peer.feat_ext[0]: head.project, peer.classifier.module: head.classify})
    copy_pool(peer.pool, head.pool)
    logit, raw = peer(bag, mask, return_att=True)
    found = head(bag, mask)
    assert torch.allclose(found.logits[:, 0], logit, atol=1e-5)
    attention = raw.masked_fill(~mask, -torch.inf).softmax(dim=1)
    assert torch.allclose(found.attention[:, 0], attention, atol=1e-5)


def test_clam_sb(bag: Tensor, mask: Tensor) -> None:
    """The slide's logit. The clustering losses do not compare: with targets of shape (n, 1), which
    its CLAM passes, torchmil's SmoothTop1SVM broadcasts every row against every target.
    """
    head = ours("clam_sb", hidden=HIDDEN, width=WIDTH)
    peer = peers.CLAM_SB((DIM,), att_dim=WIDTH, gated=True, feat_ext=projection()).eval()
    copy_weights({peer.feat_ext[0]: head.project, peer.classifier.module: head.classify})
    copy_pool(peer.pool, head.pool)
    logit, raw = peer(bag, mask, return_att=True)
    found = head(bag, mask)
    assert torch.allclose(found.logits[:, 0], logit, atol=1e-5)
    attention = raw.masked_fill(~mask, -torch.inf).softmax(dim=1)
    assert torch.allclose(found.attention[:, 0], attention, atol=1e-5)


def test_dsmil(bag: Tensor) -> None:
    """Its values are the instances themselves; ours with the identity as W_v."""
    head = ours("dsmil", width=WIDTH)
    nn.init.eye_(head.value.weight)
    nn.init.zeros_(head.value.bias)
    peer = peers.DSMIL((DIM,), att_dim=WIDTH).eval()
    copy_weights(
        {
            peer.q_nn: head.query,
            peer.inst_classifier: head.classify_instance,
            peer.bag_classifier: head.classify_bag,
        }
    )
    logit, attention, scores = peer(bag, return_att=True, return_inst_pred=True)
    found = head(bag, torch.ones(bag.shape[:2], dtype=torch.bool))
    assert torch.allclose(found.aux["bag"][:, 0], logit, atol=1e-5)
    assert torch.allclose(found.logits[:, 0], peer.predict(bag), atol=1e-5)
    assert torch.allclose(found.attention[:, 0], attention[:, :, 0], atol=1e-5)
    assert torch.allclose(found.instance_logits[:, :, 0], scores, atol=1e-5)


@pytest.mark.parametrize(("heads", "iterations"), [(1, 6), (4, 40)])
@pytest.mark.parametrize(("instances", "landmarks"), [(9, 5), (25, 13), (23, 2)])
def test_transmil(heads: int, iterations: int, instances: int, landmarks: int) -> None:
    """Without our skip convolution, which torchmil leaves out, and where landmarks divide tokens.

    (Otherwise it pads with tokens of zeros and attends to them.) It starts the pseudo-inverse of
    all heads and bags from their largest norm, the paper each from its own: equal for one head,
    and for several once the iteration has converged.
    """
    head = ours(
        "transmil", hidden=HIDDEN, heads=heads, landmarks=landmarks, iterations=iterations,
        relu=True,
    ).double()  # fmt: skip
    peer = peers.TransMIL(
        (DIM,), att_dim=HIDDEN, n_heads=heads, n_landmarks=landmarks,
        pinv_iterations=iterations, feat_ext=projection(),
    ).double().eval()  # fmt: skip
    copy_weights(
        {
            peer.feat_ext[0]: head.embed,
            peer.pos_layer.proj: head.positions.by_7,
            peer.pos_layer.proj1: head.positions.by_5,
            peer.pos_layer.proj2: head.positions.by_3,
            peer.layers[0].norm1: head.norm_1,
            peer.layers[1].norm1: head.norm_2,
            peer.norm: head.norm,
            peer.classifier: head.classify,
        }
    )
    with torch.no_grad():
        peer.cls_token.copy_(head.class_token[None])
        for theirs, own in zip(peer.layers, (head.attend_1, head.attend_2), strict=True):
            nn.init.zeros_(own.skip.weight)
            nn.init.eye_(own.out.weight)
            nn.init.zeros_(own.out.bias)
            parts = [own.query.weight, own.key.weight, own.value.weight]
            theirs.att_module.qkv_nn.weight.copy_(torch.cat(parts))
    bag = torch.randn(1, instances, DIM, dtype=torch.float64)
    logit, attention = peer(bag, return_att=True)
    found = head(bag, torch.ones(1, instances, dtype=torch.bool))
    assert torch.allclose(found.logits[:, 0], logit, atol=1e-5)
    if instances in (9, 25) and (attention >= 0).all():  # squares: no instance is repeated
        own = attention / attention.sum(dim=1, keepdim=True)
        assert torch.allclose(found.attention[:, 0], own, atol=1e-5)


def test_dtfd_with_one_pseudo_bag(bag: Tensor) -> None:
    """It splits by NumPy's global generator, so: one pseudo-bag, whose feature is passed on.

    Its attention is not gated, the paper's is: our gate is held open by a huge bias.
    """
    head = ours("dtfd", hidden=HIDDEN, width=WIDTH, pseudo_bags=1)
    for pool in (head.pool_1, head.pool_2):
        nn.init.zeros_(pool.gate.weight)
        nn.init.constant_(pool.gate.bias, 100.0)
    peer = peers.DTFDMIL(
        (DIM,), att_dim=WIDTH, n_groups=1, distill_mode="afs", feat_ext=projection()
    ).eval()
    copy_weights(
        {
            peer.feat_ext[0]: head.project,
            peer.attention_pool.fc1.module: head.pool_1.value,
            peer.attention_pool.fc2: head.pool_1.score,
            peer.u_attention_pool.fc1.module: head.pool_2.value,
            peer.u_attention_pool.fc2: head.pool_2.score,
            peer.classifier.module: head.classify_1,
            peer.u_classifier.module: head.classify_2,
        }
    )
    mask = torch.ones(bag.shape[:2], dtype=torch.bool)
    logit, first = peer(bag, mask, return_pseudo_pred=True)
    found = head(bag, mask)
    assert torch.allclose(found.logits[:, 0], logit, atol=1e-5)
    assert torch.allclose(torch.cat(found.aux["first_tier"]), first, atol=1e-5)
