"""What gradient attacks drive embeddings away from, for every person of a block at once; several surrogates: the mean.

Distances are squared and between unit-norm embeddings, so that a surrogate's weight in an ensemble does not depend on
its embedding size. Each image's loss depends on that image alone.
"""

import contextlib
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from advcloak_jax import subspace
from advcloak_jax.cloaks.blocks import Surrogates
from advcloak_jax.recognizers import feature_maps
from advcloak_jax.recognizers.recognizer import Recognizer

Kind = Literal["plain", "all-pairs", "class-centre", "affine-hull", "convex-hull"]


class Objective(NamedTuple):
    """What to push away from.

    plain: each image's own original (Eq. 20); all-pairs: all originals of the person; the others: the nearest point of
    the person's feature subspace (Eq. 5-7).
    warmup_steps, lower, upper, iterations: of the convex hull, which the class centre replaces for the first steps.
    dropout: share of the surrogates' feature maps that is dropped (DFANet), also when the originals are embedded.
    """

    kind: Kind = "plain"
    warmup_steps: int = 0
    lower: float = 0.0
    upper: float = 1.0
    iterations: int = 50
    dropout: float = 0.0


def embed(recognizer: Recognizer, faces: jax.Array, keys: jax.Array | None, dropout: float) -> jax.Array:
    """Unit-norm embeddings [B, N, d] of faces [B, N, H, W, C] in [0, 1]; with dropout of feature maps by `keys` [B]."""
    flat = faces.reshape(-1, *faces.shape[2:])
    dropped: Any = contextlib.nullcontext()
    if dropout:
        assert keys is not None
        dropped = feature_maps.changed(feature_maps.dropout(keys, dropout))
    with dropped:
        found = recognizer(flat)
    return found.reshape(*faces.shape[:2], -1)


def describe(objective: Objective, surrogates: Surrogates, faces: jax.Array, keys: jax.Array | None) -> list[Any]:
    """Of each surrogate, what the originals [B, N, H, W, C] become: embeddings [B, N, d], or the persons' subspaces."""
    found = [embed(surrogate, faces, _own(keys, number), objective.dropout) for number, surrogate in _each(surrogates)]
    found = [jax.lax.stop_gradient(embeddings) for embeddings in found]
    return found if objective.kind in ("plain", "all-pairs") else [subspace.fit(embeddings) for embeddings in found]


def gradients(
    objective: Objective,
    surrogates: Surrogates,
    originals: list[Any],
    adversarial: jax.Array,
    number: jax.Array,
    keys: jax.Array | None,
) -> jax.Array:
    """Gradient of each image's distance by its own pixels, [B, N, H, W, C]: where to go. `number` counts the steps."""

    def total(images: jax.Array) -> jax.Array:
        distances = [
            _distance(objective, known, embed(surrogate, images, _own(keys, index), objective.dropout), number)
            for (index, surrogate), known in zip(_each(surrogates), originals, strict=True)
        ]
        return jnp.sum(jnp.stack(distances)) / len(distances)

    return jax.grad(total)(adversarial)


def _each(surrogates: Surrogates) -> list[tuple[int, Recognizer]]:
    return list(enumerate(surrogates))


def _own(keys: jax.Array | None, index: int) -> jax.Array | None:
    """Keys of one surrogate's dropout."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, index)


def _distance(objective: Objective, known: Any, embeddings: jax.Array, number: jax.Array) -> jax.Array:
    """Distance [B, N] of embeddings [B, N, d] from what is known of the originals."""
    match objective.kind:
        case "plain":
            return jnp.sum(jnp.square(embeddings - known), -1)
        case "all-pairs":
            return -jnp.einsum("bnd,bmd->bn", embeddings, known) / known.shape[1]
        case "class-centre" | "affine-hull":
            return subspace.squared_distance(known, embeddings, kind=objective.kind)
    nearest = subspace.project(
        known,
        embeddings,
        kind="convex-hull",
        lower=objective.lower,
        upper=objective.upper,
        iterations=objective.iterations,
    )
    if objective.warmup_steps:
        centre = subspace.project(known, embeddings, kind="class-centre")
        nearest = jnp.where(number < objective.warmup_steps, centre, nearest)
    return jnp.sum(jnp.square(embeddings - nearest), -1)
