"""Classification heads that recognisers are trained with: softmax, ArcFace, CosFace. Logits for a cross-entropy.

The class weights are plain arrays [d, K] held by whoever trains; nothing here has state.
"""

import math

import jax
import jax.numpy as jnp

from advcloak_jax.recognizers.recognizer import normalise


def softmax(features: jax.Array, weights: jax.Array, bias: jax.Array) -> jax.Array:
    """Plain logits [B, K] = features [B, d] @ weights [d, K] + bias [K], float32."""
    return _matmul(features, weights) + bias.astype(jnp.float32)


def classify(features: jax.Array, weights: jax.Array) -> jax.Array:
    """Cosines [B, K] of features [B, d] (of any norm) to class weights [d, K] (of any norm), float32, in [-1, 1]."""
    cosine = _matmul(normalise(features), normalise(weights.T).T)
    return jnp.clip(cosine, -1.0, 1.0)


def arcface(cosine: jax.Array, labels: jax.Array, scale: float = 64.0, margin: float = 0.5) -> jax.Array:
    """ArcFace logits [B, K] (Deng et al. 2019) of cosines [B, K] and labels [B] int: scale * cos(angle + margin).

    The label's cosine only is changed. Where angle + margin would pass pi, cos would rise again; there, as in
    face.evoLVe and arcface_torch without "easy margin", the logit is scale * (cos(angle) - margin * sin(pi - margin)),
    which falls with the angle but is not continuous with the other branch. The margin's infinite slope at
    cosine = +-1 is cut: below sin^2(angle) = 1e-7 (float32's rounding of the cosine) the sine counts as constant.
    """
    at_label = _is_label(cosine, labels)
    sine = jnp.sqrt(jnp.maximum((1.0 - cosine) * (1.0 + cosine), 1e-7))
    with_margin = cosine * math.cos(margin) - sine * math.sin(margin)
    threshold = math.cos(math.pi - margin)
    with_margin = jnp.where(cosine > threshold, with_margin, cosine - margin * math.sin(math.pi - margin))
    return scale * jnp.where(at_label, with_margin, cosine)


def cosface(cosine: jax.Array, labels: jax.Array, scale: float = 64.0, margin: float = 0.35) -> jax.Array:
    """CosFace logits [B, K] (Wang et al. 2018) of cosines [B, K]: scale * (cosine - margin at the labels [B])."""
    return scale * jnp.where(_is_label(cosine, labels), cosine - margin, cosine)


def _is_label(cosine: jax.Array, labels: jax.Array) -> jax.Array:
    """[B, K] bool: column k is row b's label."""
    return labels[:, None] == jnp.arange(cosine.shape[1])


def _matmul(features: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.matmul(features.astype(jnp.float32), weights.astype(jnp.float32), precision="highest")
