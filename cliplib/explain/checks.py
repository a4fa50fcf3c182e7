"""What a heat map is worth: does it depend on what was learned, and does the classifier depend on what it marks?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata
from tqdm.auto import tqdm

from cliplib.encoder import ClipEncoder, ImageSource, Kind
from cliplib.encoder.arguments import check_images
from cliplib.errors import CliplibError
from cliplib.explain.maps import Floats, grid, picture

_BLUR = 1 / 16  # standard deviation of the blur from which insertion starts, as a share of the picture's side


@dataclass(frozen=True, eq=False)
class Curves:
    """What becomes of a class's probability as patches go or come.

    Attributes
    ----------
    shares : (s + 1,) float64
        Share of the patches deleted or inserted, from 0 to 1.
    deletion, insertion : (n, s + 1) float64
        Probability of each picture's class.
    """

    shares: NDArray[np.float64]
    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]

    @property
    def deletion_auc(self) -> NDArray[np.float64]:
        """Area under each picture's deletion curve, (n,), 0 to 1: the smaller, the better the map."""
        return np.asarray(np.trapezoid(self.deletion, self.shares, axis=1))

    @property
    def insertion_auc(self) -> NDArray[np.float64]:
        """Area under each picture's insertion curve, (n,), 0 to 1: the larger, the better the map."""
        return np.asarray(np.trapezoid(self.insertion, self.shares, axis=1))


def deletion_insertion(
    encoder: ClipEncoder,
    images: Sequence[ImageSource],
    maps: ArrayLike,
    targets: ArrayLike,
    predict_proba: Callable[[Floats], ArrayLike],
    *,
    kind: Kind = "pooled",
    steps: int = 8,
    seed: int = 0,
) -> Curves:
    """Delete, and insert, patches in the order of a map, and watch the probability of a class.

    RISE (Petsiuk, Das and Saenko, BMVC 2018, section 4.1), by patches in the place of pixels: deletion replaces them by
    grey (0 after normalisation), most relevant first; insertion puts them back into a blurred picture. Neither kind of
    picture occurs in nature, so only the difference to another order means something: give random maps as well.

    Parameters
    ----------
    encoder, images, kind
        As in `relevance`.
    maps : (n, rows, columns) array-like
        Of any kind. Patches of equal value go in random order.
    targets : (n,) array-like of int
        Column of each picture's class in what `predict_proba` returns.
    predict_proba : callable
        (m, d) features to (m, k) probabilities, such as a probe's own method.
    steps : int
        Into how many parts the order is cut.
    seed : int
        Of the order of equal values.

    Raises
    ------
    CliplibError
        Maps or targets that fit neither pictures nor tower; an `ImageError` for a picture that cannot be read.
    """
    heat, columns = np.asarray(maps, dtype=np.float32), np.asarray(targets)
    check_images(images, kind, "raise", None, None)
    (side, patch), n = grid(encoder), len(images)
    if heat.shape != (n, side, side) or columns.shape != (n,):
        raise CliplibError(
            f"{n} pictures need maps of shape ({n}, {side}, {side}) and targets of shape ({n},), not {heat.shape} and "
            f"{columns.shape}."
        )
    if not 1 <= steps <= side**2:
        raise CliplibError(f"steps must lie between 1 and the number of patches, {side**2}; got {steps}.")
    rng = np.random.default_rng(seed)
    taken = np.rint(np.linspace(0, side**2, steps + 1))
    found = np.zeros((n, 2, steps + 1))
    for i, image in enumerate(tqdm(images, desc=f"{encoder.name}: deletion and insertion", unit="image")):
        pixels = encoder.preprocess(picture(image, i))
        rank = np.empty(side**2)
        rank[np.lexsort((rng.random(side**2), -heat[i].ravel()))] = np.arange(side**2)
        first = rank < taken[:, None]  # (steps + 1, patches): those that go, or come
        area = np.kron(first.reshape(-1, side, side), np.ones((patch, patch), dtype=bool))
        # The strip beyond the last whole patch is one that the tower does not see.
        mask = np.pad(area, ((0, 0), *[(0, length - side * patch) for length in pixels.shape[1:]]))[:, None]
        blurred = gaussian_filter(pixels, sigma=(0, *(_BLUR * length for length in pixels.shape[1:])))
        both = np.concatenate([np.where(mask, 0, pixels), np.where(mask, pixels, blurred)]).astype(np.float32)
        proba = np.asarray(predict_proba(encoder._forward(encoder._move(both), kind)))
        found[i] = proba[:, columns[i]].reshape(2, steps + 1)
    return Curves(taken / side**2, found[:, 0], found[:, 1])


def randomised(encoder: ClipEncoder, *, layers: int | None = None, seed: int = 0) -> ClipEncoder:
    """An encoder whose last `layers` blocks, and the layer norm after them, have forgotten what they learned.

    For the test of Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, section 3: a map that stays as it
    was when weights are randomised, from the output towards the input, explains the picture and not the model. None
    randomises all of both towers (`cliplib.baselines.random_weights`), the embedding of patches and positions included;
    0 changes nothing.

    Raises
    ------
    CliplibError
        There are fewer layers.
    """
    from cliplib.baselines import random_weights  # only here: it brings scikit-image along, which maps do not need

    fresh = random_weights(encoder, seed=seed)
    if layers is None:
        return fresh
    model = deepcopy(encoder.model)
    old, new = model.vision_model, fresh.model.vision_model
    depth = len(old.encoder.layers)
    if not 0 <= layers <= depth:
        raise CliplibError(f"layers must lie between 0 and {depth}, the depth of {encoder.name!r}; got {layers}.")
    if layers:
        old.post_layernorm.load_state_dict(new.post_layernorm.state_dict())
    for block in range(depth - layers, depth):
        old.encoder.layers[block].load_state_dict(new.encoder.layers[block].state_dict())
    return ClipEncoder(
        model, encoder.preprocess.image_processor, encoder.tokenizer,
        name=f"{encoder.name}, last {layers} layers random", device=str(encoder.device), dtype=encoder.dtype,
    )  # fmt: skip


def rank_correlation(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Spearman's rank correlation of maps ``(n, rows, columns)``, picture by picture: (n,).

    A map whose patches are all equal has no order, and correlates with none: 0.
    """
    x, y = np.asarray(a), np.asarray(b)
    if x.ndim != 3 or x.shape != y.shape:
        raise CliplibError(f"Maps to be compared must have one shape (n, rows, columns), not {x.shape} and {y.shape}.")
    ranks = [rankdata(m.reshape(len(m), -1), axis=1) for m in (x, y)]
    u, v = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    norm = np.sqrt((u**2).sum(axis=1) * (v**2).sum(axis=1))
    return np.asarray(np.divide((u * v).sum(axis=1), norm, out=np.zeros(len(u)), where=norm > 0))
