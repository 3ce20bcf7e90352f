"""Why a slide got its score: what in a tile moved it, and what it would be without a region."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from numpy.typing import NDArray
from torch import Tensor, nn

from mil_models.bags import Bag, contract_of, read_bag, slide_bag
from mil_models.checkpoint import Model
from mil_models.encoders import Encoder, create_encoder
from mil_models.errors import EmptyBagError, ExplanationError, ModelMismatchError
from mil_models.heads import MILOutput
from mil_models.network import TileNetwork
from mil_models.prediction import BagPrediction, fitting_embeddings, predict_bag
from tiling.nodes import Json, as_json
from tiling.store import SlideStore

SAME_NETWORK = ("library", "architecture", "arguments", "weights", "pooling", "mean", "std",
                "resize_px", "interpolation", "crop_px", "projection", "unit_length")  # fmt: skip
"""Fields of a contract that must be the same for the network to be the same; engine, precision and
batch change its numbers in the last digits only."""


@dataclass(frozen=True, slots=True, eq=False)
class TileExplanation:
    """What in one tile moves the slide's logit, the other tiles as they are.

    Attributes
    ----------
    values
        Grad-CAM before its ReLU, float32 ``(H, W)``, the tile's own pixels: positive where the
        tile speaks for `output`, negative where against; NaN where the encoder does not look (a
        crop). Not scaled, so that tiles of a slide can be compared; in a bag of N tiles they are
        about 1/N of what they are alone.
    output
        Name of the value that is explained, such as the class.
    logit
        The slide's logit of it, mean over the folds, with this tile newly encoded.
    drift
        ``1 - cosine`` of the new embedding and the stored one: 0 for the same engine, about 1e-4
        at most between precisions; more says that tile or encoder is another.
    """

    values: NDArray[np.float32]
    output: str
    logit: float
    drift: float


def explain_tile(
    model: Model,
    encoder: Encoder,
    store: SlideStore,
    index: int,
    pixels: NDArray[np.uint8],
    *,
    output: str | None = None,
) -> TileExplanation:
    r"""Return the Grad-CAM map of one tile through encoder and head to the slide's logit.

    .. math::
        \alpha_k = \frac{1}{Z} \sum_{ij} \frac{\partial y}{\partial A^k_{ij}}, \quad
        L_{ij} = \sum_k \alpha_k A^k_{ij}

    A are the encoder's last feature maps; of a vision transformer the patch tokens that enter its
    last attention, since behind it the class token alone counts. y is the slide's logit: of two
    or more classes the logarithm of the odds of one of them; the model's own value otherwise. The
    paper's ReLU is left to whoever draws: it would hide evidence against.

    Parameters
    ----------
    encoder
        The network that made the embeddings; see :func:`explaining_encoder`.
    index
        Which tile of the store.
    pixels
        That tile, uint8 ``(H, W, 3)``.
    output
        Which of the model's values; by default the one that slides are sorted by.

    Raises
    ------
    ModelMismatchError
        The store's embeddings are not the model's, or the encoder is another.
    ExplanationError
        The tile is in no bag, the model has no such value, or the network has no feature maps.

    References
    ----------
    Selvaraju et al. 2017, "Grad-CAM", arXiv:1610.02391, equations 1 and 2.
    """
    rows = fitting_embeddings(store, model)
    _check_encoder(encoder, contract_of(rows)["encoder"])
    bag, keep = slide_bag(store, rows)
    if not 0 <= index < len(store) or not keep[index]:
        raise ExplanationError(f"{store.slide_id}: tile {index} could not be read; choose another")
    name = model.positive if output is None else output
    if name not in model.classes:
        raise ExplanationError(f"no output {name!r}; the model has {', '.join(model.classes)}")
    place = int(keep[:index].sum())
    network = encoder.engine.network
    if not isinstance(network, TileNetwork):
        raise ExplanationError(f"{encoder.name}: no network of ours, whose layers are known")
    normal = _normalised(encoder, pixels)
    with torch.enable_grad():
        maps, embedding = embed_with_maps(network, normal)
        y = torch.stack(
            [
                _logit_of(model, fold, _with_row(bag, place, embedding), name)
                for fold in range(len(model.heads))
            ]
        ).mean()
        if not y.requires_grad:
            raise ExplanationError(
                f"head {model.name}: no gradient leads from the score to a tile, since it picks "
                "features; ask for the score without the region instead"
            )
        (gradient,) = torch.autograd.grad(y, maps, allow_unused=True, materialize_grads=True)
    weights = gradient.mean(dim=(2, 3), keepdim=True)  # (1, K, 1, 1)
    cam = (weights * maps).sum(dim=1, keepdim=True).detach()  # (1, 1, h, w)
    stored = bag.values[place].double()
    cosine = F.cosine_similarity(embedding.detach()[0].cpu().double(), stored, dim=0)
    return TileExplanation(
        _on_tile(network, cam.float().cpu(), pixels.shape[:2]),
        name,
        float(y.detach()),
        max(1 - float(cosine), 0.0),
    )


def score_without(store: SlideStore, model: Model, tiles: NDArray[np.int64]) -> BagPrediction:
    """Return what the model would say of the slide without `tiles` (indices in the store).

    Nothing is written. The attention is over the tiles that are left.

    Raises
    ------
    ModelMismatchError
        The store's embeddings are not the model's.
    EmptyBagError
        No tile would be left.
    """
    values, keep = read_bag(store, fitting_embeddings(store, model))
    keep[tiles] = False
    if not keep.any():
        raise EmptyBagError(f"{store.slide_id}: without these no tile is left; choose fewer")
    return predict_bag(model, values[keep], store.grid.coords[keep])


def explaining_encoder(
    model: Model, *, encoder: str | None = None, weights: str | Path | None = None
) -> Encoder:
    """Return the model's encoder as a network that gradients can pass: torch, float32.

    Parameters
    ----------
    encoder
        A TOML file that describes it, where the model was not trained on one of ours or timm's.
    weights
        A local file of its weights, where they are not the published ones.

    Raises
    ------
    EncoderError
        It cannot be made: see :func:`mil_models.create_encoder`.
    ModelMismatchError
        It is not the one that the model was trained on.
    """
    wanted = model.card["encoder"]
    kind, _, seed = str(wanted["weights"]).partition(":")
    found = create_encoder(
        encoder or str(wanted["name"]),
        weights=weights,
        random_weights=kind == "random" and weights is None,
        seed=int(seed) if kind == "random" else 0,
        device="auto",
        batch_size=1,
        engine="torch",
        precision="float32",
    )
    _check_encoder(found, wanted)
    return found


def embed_with_maps(network: TileNetwork, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return feature maps ``(1, K, h, w)`` and the embedding ``(1, D)`` that follows from them.

    Parameters
    ----------
    pixels
        One tile, normalised, ``(1, 3, H, W)``.

    Raises
    ------
    ExplanationError
        The network has neither maps nor patch tokens.
    """
    backbone: Any = network.backbone
    keeper = _MapKeeper(backbone)
    handle = None
    blocks: Any = getattr(backbone, "blocks", None)
    is_list = isinstance(blocks, nn.Sequential | nn.ModuleList)
    norm = getattr(blocks[-1], "norm1", None) if is_list else None
    if norm is not None and hasattr(backbone, "num_prefix_tokens"):
        handle = norm.register_forward_hook(keeper.keep_tokens)
    try:
        embedding = network.embed_by(keeper, pixels)
    finally:
        if handle is not None:
            handle.remove()
    if keeper.maps is None:
        raise ExplanationError(f"{network.name}: neither feature maps nor patch tokens to look at")
    return keeper.maps, embedding


class _MapKeeper:
    """A backbone that keeps its last maps, and from which gradients go no further back."""

    def __init__(self, backbone: Any) -> None:
        self._backbone = backbone
        self.maps: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Return the backbone's features; maps ``(1, K, h, w)`` or ``(1, h, w, K)`` are kept."""
        found: Tensor = self._backbone.forward_features(pixels)
        if found.dim() != 4:
            return found
        width = int(self._backbone.num_features)
        channels_last = found.shape[3] == width and found.shape[1] != width
        self.maps = (found.permute(0, 3, 1, 2) if channels_last else found).detach()
        self.maps.requires_grad_()
        return self.maps.permute(0, 2, 3, 1) if channels_last else self.maps

    def keep_tokens(self, _module: nn.Module, _inputs: Any, found: Tensor) -> Tensor:
        """Return tokens ``(1, prefix + N, K)`` whose patches are kept as maps."""
        prefix, patches = found.detach().tensor_split([int(self.num_prefix_tokens)], dim=1)
        side = math.isqrt(patches.shape[1])
        if side * side != patches.shape[1]:
            raise ExplanationError(f"{patches.shape[1]} patch tokens are no square")
        maps = patches.transpose(1, 2).reshape(len(patches), -1, side, side).contiguous()
        self.maps = maps.requires_grad_()
        return torch.cat([prefix, self.maps.flatten(2).transpose(1, 2)], dim=1)


def _check_encoder(encoder: Encoder, wanted: Json) -> None:
    found = as_json(asdict(encoder.contract))
    other = [key for key in SAME_NETWORK if found[key] != wanted[key]]
    if other:
        raise ModelMismatchError(
            f"encoder {encoder.name} is not the one that made the embeddings "
            f"({wanted['name']}): {other[0]} is {found[other[0]]!r}, not {wanted[other[0]]!r}; "
            "name its weights"
        )


def _normalised(encoder: Encoder, pixels: NDArray[np.uint8]) -> Tensor:
    """Return a tile ``(H, W, 3)`` as the network takes it, ``(1, 3, H, W)``."""
    raw = torch.from_numpy(np.array(pixels)).to(encoder.device)
    mean, scale = (
        torch.tensor(v, device=encoder.device) for v in (encoder.engine.mean, encoder.engine.std)
    )
    return ((raw.float() - mean) / scale).permute(2, 0, 1).unsqueeze(0)


def _with_row(bag: Bag, place: int, embedding: Tensor) -> Bag:
    """Return the bag with one instance in place of its own."""
    row = embedding.float().to(bag.values.device)
    values = torch.cat([bag.values[:place], row, bag.values[place + 1 :]])
    return Bag(values, bag.coords)


def _logit_of(model: Model, fold: int, bag: Bag, name: str) -> Tensor:
    """Return the logit (for classes: the logarithm of the odds) of a value, by one fold's head."""
    head, task = model.heads[fold], model.tasks[fold]
    values = bag.values.unsqueeze(0)
    mask = torch.ones(values.shape[:2], dtype=torch.bool)
    output: MILOutput = head(values, mask, coords=bag.coords.unsqueeze(0))
    logits = output.logits  # (1, C)
    place = model.classes.index(name)
    if task.kind in ("binary", "multiclass"):
        others = torch.cat([logits[0, :place], logits[0, place + 1 :]])
        return logits[0, place] - others.logsumexp(dim=0)
    if task.kind == "multilabel":
        return logits[0, place]
    return task.predict(logits)[0, place]


def _on_tile(network: TileNetwork, cam: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return maps ``(1, 1, h, w)`` laid over the tile's own pixels, bilinear; NaN off a crop."""
    height, width = size
    seen = network.resize_px or width
    share = 1.0 if network.crop_px is None else min(network.crop_px / seen, 1.0)
    inner = round(height * share), round(width * share)
    top, left = (height - inner[0] + 1) // 2, (width - inner[1] + 1) // 2
    canvas = np.full((height, width), np.nan, np.float32)
    enlarged = F.interpolate(cam, size=inner, mode="bilinear", align_corners=False)
    canvas[top : top + inner[0], left : left + inner[1]] = enlarged[0, 0].numpy()
    return canvas
