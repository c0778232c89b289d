"""What recognisers are trained with: softmax, ArcFace, CosFace, AdaFace and SFace, all behind one `loss`.

The classes may lie on one device, or spread over the devices of a mapped axis, each holding some columns of the class
weights: every sum over the classes goes through `Columns`.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from advcloak_jax.recognizers.recognizer import normalise

PyTree = Any

PUBLISHED_MARGIN = {"softmax": 0.0, "arcface": 0.5, "cosface": 0.35, "adaface": 0.4, "sface": 0.0}
"""Margin m of each loss as published; softmax and SFace have none."""

NORM_RANGE = (0.001, 100.0)
"""AdaFace counts feature norms outside of this as its ends."""
ADAFACE_EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class Margin:
    """A loss and its figures.

    scale: s of the cosine logits. value: m, an angle for ArcFace, a cosine for CosFace, both for AdaFace.
    adaface_h: how far the margin follows the norm. adaface_rate: weight of a new batch in the statistics of the norms.
    sface_k: slope of the sigmoids. sface_a, sface_b: angles where the pull to the own centre and the push from the
    others are at half their strength.
    """

    name: str
    scale: float = 64.0
    value: float = 0.0
    adaface_h: float = 0.333
    adaface_rate: float = 0.01
    sface_k: float = 80.0
    sface_a: float = 0.87
    sface_b: float = 1.2


class Norms(NamedTuple):
    """Running mean [] and standard deviation [] of the feature norms (AdaFace), float32."""

    mean: jax.Array
    std: jax.Array


class Columns(NamedTuple):
    """Which classes the columns of the class weights are: `first`, `first` + 1, ...; from `classes` on, padding.

    axis: the mapped axis over whose devices the classes are spread; None when all of them are here.
    """

    first: jax.Array | int
    classes: int
    axis: str | None


class Outcome(NamedTuple):
    """Loss [] of a batch, share [] of its faces whose own logit is the highest, and the new statistics of norms."""

    loss: jax.Array
    accuracy: jax.Array
    norms: Norms | None


def first_norms(margin: Margin) -> Norms | None:
    """Statistics that training starts with: AdaFace's published ones; None for losses that keep none."""
    return Norms(jnp.float32(20.0), jnp.float32(100.0)) if margin.name == "adaface" else None


def loss(
    margin: Margin,
    features: jax.Array,
    classifier: dict[str, jax.Array],
    labels: jax.Array,
    norms: Norms | None,
    columns: Columns,
    batch_axis: str | None,
) -> Outcome:
    """Mean loss of features [B, d] (of any norm and dtype) with labels [B] int; everything in float32.

    classifier: "weights" [d, k] and, for softmax, "bias" [k], of the classes that `columns` says. norms: AdaFace's,
    which are brought up to date first; over `batch_axis`, where the batch is spread over its devices.
    """
    features = features.astype(jnp.float32)
    weights = classifier["weights"].astype(jnp.float32)
    number = columns.first + jnp.arange(weights.shape[1])
    is_label, is_class = labels[:, None] == number, number < columns.classes
    if margin.name == "softmax":
        logits = softmax(features, weights, classifier["bias"])
        own = _own(logits, is_label, columns)
    else:
        cosine = classify(features, weights)
        if margin.name == "adaface":
            cosine = jnp.clip(cosine, -1.0 + ADAFACE_EPSILON, 1.0 - ADAFACE_EPSILON)
            norms, sizes = _norms(margin, features, norms, batch_axis)
            own = adaface(_own(cosine, is_label, columns), margin.value, quality(sizes, norms, margin.adaface_h))
        else:
            own = _with_margin(margin, _own(cosine, is_label, columns))
        logits, own = margin.scale * jnp.where(is_label, own[:, None], cosine), margin.scale * own
    classes = jnp.where(is_class, logits, -jnp.inf)
    accuracy = (_best(classes, columns) == labels).mean()
    if margin.name == "sface":
        losses = sface(margin, logits, own, is_class & ~is_label, columns)
    else:
        losses = _log_sum_exp(classes, columns) - own
    return Outcome(losses.mean(), accuracy, norms)


def _with_margin(margin: Margin, cosine: jax.Array) -> jax.Array:
    """Cosines [B] to the own class, made smaller by the margins that need nothing else."""
    if margin.name == "arcface":
        return arcface(cosine, margin.value)
    return cosface(cosine, margin.value) if margin.name == "cosface" else cosine


def _norms(margin: Margin, features: jax.Array, norms: Norms | None, batch_axis: str | None) -> tuple[Norms, jax.Array]:
    """AdaFace's statistics with this batch's feature norms, and those norms [B], constants of the backward pass."""
    assert norms is not None
    sizes = jnp.clip(jnp.linalg.norm(lax.stop_gradient(features), axis=-1), *NORM_RANGE)
    return update_norms(norms, sizes, margin.adaface_rate, batch_axis), sizes


def softmax(features: jax.Array, weights: jax.Array, bias: jax.Array) -> jax.Array:
    """Plain logits [B, K] = features [B, d] @ weights [d, K] + bias [K], float32."""
    return _matmul(features, weights) + bias.astype(jnp.float32)


def classify(features: jax.Array, weights: jax.Array) -> jax.Array:
    """Cosines [B, K] of features [B, d] (of any norm) to class weights [d, K] (of any norm), float32, in [-1, 1]."""
    cosine = _matmul(normalise(features), normalise(weights.T).T)
    return jnp.clip(cosine, -1.0, 1.0)


def arcface(cosine: jax.Array, margin: float) -> jax.Array:
    """ArcFace (Deng et al. 2019): cosines [B] to the own class -> cos(angle + margin).

    Where angle + margin would pass pi, cos would rise again; there, as in face.evoLVe and arcface_torch without "easy
    margin", it is cos(angle) - margin * sin(pi - margin), which falls with the angle but is not continuous with the
    other branch. The margin's infinite slope at cosine = +-1 is cut: below sin^2(angle) = 1e-7 (float32's rounding of
    the cosine) the sine counts as constant.
    """
    sine = jnp.sqrt(jnp.maximum((1.0 - cosine) * (1.0 + cosine), 1e-7))
    with_margin = cosine * math.cos(margin) - sine * math.sin(margin)
    threshold = math.cos(math.pi - margin)
    return jnp.where(cosine > threshold, with_margin, cosine - margin * math.sin(math.pi - margin))


def cosface(cosine: jax.Array, margin: float) -> jax.Array:
    """CosFace (Wang et al. 2018): cosines [B] to the own class -> cosine - margin."""
    return cosine - margin


def adaface(cosine: jax.Array, margin: float, quality: jax.Array) -> jax.Array:
    """AdaFace (Kim et al. 2022): cosines [B] to the own class, within +-(1 - 1e-3), and quality [B] in [-1, 1].

    cos(angle + g_angle) - g_add, with g_angle = -margin * quality and g_add = margin + margin * quality: an ArcFace
    with a negative margin for the best faces, CosFace for average ones, ArcFace for the worst.
    """
    angle = jnp.arccos(cosine) - margin * quality
    angle = jnp.clip(angle, ADAFACE_EPSILON, math.pi - ADAFACE_EPSILON)
    return jnp.cos(angle) - (margin + margin * quality)


def quality(sizes: jax.Array, norms: Norms, h: float) -> jax.Array:
    """AdaFace's normalised feature norm [B] in [-1, 1] of norms `sizes` [B]: h standard deviations from the mean."""
    return jnp.clip(h * (sizes - norms.mean) / (norms.std + ADAFACE_EPSILON), -1.0, 1.0)


def update_norms(norms: Norms, sizes: jax.Array, rate: float, axis: str | None) -> Norms:
    """Running mean and (unbiased) standard deviation after a batch of norms `sizes` [B], spread over `axis` if any."""
    mean = sizes.mean()
    var, count = jnp.square(sizes - mean).mean(), sizes.size
    if axis is not None:
        overall = lax.pmean(mean, axis)
        var, mean = lax.pmean(var + jnp.square(mean - overall), axis), overall
        count *= lax.axis_size(axis)
    std = jnp.sqrt(var * (count / max(count - 1, 1)))
    return Norms(norms.mean + rate * (mean - norms.mean), norms.std + rate * (std - norms.std))


def sface(margin: Margin, logits: jax.Array, own: jax.Array, is_other: jax.Array, columns: Columns) -> jax.Array:
    """SFace's loss [B] (Zhong et al. 2021): no cross-entropy, but a pull and pushes of limited strength.

    logits [B, k] = scale * cosine to the classes here, own [B] to the own class, is_other [B, k]: a class, and not the
    own. Each counts by a sigmoid of its angle, a constant of the backward pass: the pull to the own centre fades out
    below sface_a, the push from another beyond sface_b.
    """

    def angle(logits: jax.Array) -> jax.Array:
        return jnp.arccos(jnp.clip(lax.stop_gradient(logits) / margin.scale, -1.0, 1.0))

    pull = jax.nn.sigmoid(margin.sface_k * (angle(own) - margin.sface_a))
    push = jax.nn.sigmoid(margin.sface_k * (margin.sface_b - angle(logits)))
    return _sum(jnp.where(is_other, push * logits, 0.0).sum(-1), columns) - pull * own


def _sum(parts: jax.Array, columns: Columns) -> jax.Array:
    """Sum over all classes of what each device has summed over its own."""
    return parts if columns.axis is None else lax.psum(parts, columns.axis)


def _own(scores: jax.Array, is_label: jax.Array, columns: Columns) -> jax.Array:
    """Score [B] of each face's own class, wherever that is, of scores [B, k]."""
    return _sum(jnp.where(is_label, scores, 0.0).sum(-1), columns)


def _highest(logits: jax.Array, columns: Columns) -> jax.Array:
    """Highest logit [B] over all classes, a constant of the backward pass."""
    highest = lax.stop_gradient(logits.max(-1))
    return highest if columns.axis is None else lax.pmax(highest, columns.axis)


def _best(logits: jax.Array, columns: Columns) -> jax.Array:
    """Class [B] of the highest logit, the first one where several are equal."""
    best = columns.first + logits.argmax(-1)
    if columns.axis is None:
        return best
    mine = lax.stop_gradient(logits.max(-1)) == _highest(logits, columns)
    return lax.pmin(jnp.where(mine, best, columns.classes), columns.axis)


def _log_sum_exp(logits: jax.Array, columns: Columns) -> jax.Array:
    """log(sum(exp(logits))) [B] over all classes."""
    highest = _highest(logits, columns)
    return highest + jnp.log(_sum(jnp.exp(logits - highest[:, None]).sum(-1), columns))


def _matmul(features: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.matmul(features.astype(jnp.float32), weights.astype(jnp.float32), precision="highest")
