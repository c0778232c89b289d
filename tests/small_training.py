"""Networks small enough to compile in a second, and the plumbing to run the training steps on them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from advcloak_jax import subspace
from advcloak_jax.config import PersonConfig
from advcloak_jax.networks.norms import BatchNorm
from advcloak_jax.recognizers.recognizer import embed
from advcloak_jax.training import parallel, placement, state, steps

SIZE, EMBEDDING = 16, 16
PERSONS, PER_PERSON = 4, 5
BATCH = PERSONS * PER_PERSON  # 20: one of the labels is flipped


def patches(images: jax.Array) -> jax.Array:
    """[..., H, W, 3] -> [..., H/4 * W/4, 48]: with these a dense layer is a convolution that compiles quickly."""
    *count, height, width, colours = images.shape
    blocks = images.reshape(*count, height // 4, 4, width // 4, 4, colours).swapaxes(-4, -3)
    return blocks.reshape(*count, -1, 16 * colours)


class SmallGenerator(nn.Module):
    """Dense layer on patches, batch norm, ReLU, dense layer back, tanh."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, 3] -> [B, H, W, 3] in (-1, 1)."""
        x = nn.relu(BatchNorm(axis_name=self.axis_name)(nn.Dense(6)(patches(images)), train=train))
        return jnp.tanh(nn.Dense(48)(x).reshape(images.shape))


class SmallDiscriminator(nn.Module):
    """Dense layer on patches, batch norm, leaky ReLU, one logit per patch."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """[..., B, H, W, 3] -> [..., B, H/4 * W/4, 1, 1]; what is before B counts batches, normalised apart."""
        norm = BatchNorm(axis_name=self.axis_name, apart=images.ndim - 4)
        x = nn.leaky_relu(norm(nn.Dense(4)(patches(images)), train=train), 0.2)
        return nn.Dense(1)(x)[..., None]


class SmallRecognizer(nn.Module):
    """Dense layer on patches, batch norm, ReLU, dense layer."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, 3] -> [B, d]."""
        x = nn.relu(BatchNorm(axis_name=self.axis_name)(nn.Dense(6)(patches(images)), train=train))
        return nn.Dense(EMBEDDING)(x.reshape(len(x), -1))


def recording(rate: float = 0.01) -> optax.GradientTransformation:
    """Plain gradient descent whose state after a step is exactly that step's gradient."""

    def update(gradients: Any, _: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda g: -rate * g, gradients), gradients

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


class Data(NamedTuple):
    """Faces [P, N, H, W, 3] in [0, 1], their labels, their unit embeddings by the surrogate, its variables, a key."""

    faces: jax.Array
    labels: jax.Array
    embeddings: jax.Array
    spaces: subspace.Subspace
    surrogate: Any
    key: jax.Array


def make_data() -> Data:
    """Random smooth faces, alike within a person."""
    rng = np.random.default_rng(3)
    base, own = rng.uniform(size=(PERSONS, 1, 4, 4, 3)), rng.uniform(size=(PERSONS, PER_PERSON, 4, 4, 3))
    faces = np.kron(0.6 * base + 0.4 * own, np.ones((1, 1, SIZE // 4, SIZE // 4, 1))).astype(np.float32)
    module = SmallRecognizer()
    variables = module.init(jax.random.key(5), jnp.zeros((1, SIZE, SIZE, 3)), train=False)
    flat = faces.reshape(-1, *faces.shape[2:])
    embeddings = embed(module, variables, jnp.asarray(flat)).reshape(PERSONS, PER_PERSON, -1)
    labels = np.repeat(np.arange(PERSONS, dtype=np.int32), PER_PERSON).reshape(PERSONS, PER_PERSON)
    return Data(
        jnp.asarray(faces), jnp.asarray(labels), embeddings, subspace.fit(embeddings), variables, jax.random.key(7)
    )


def flat(x: jax.Array) -> jax.Array:
    """Join the axes of persons and of their images."""
    return x.reshape(-1, *x.shape[2:])


def recognizer_batch(data: Data, item: Any, number: jax.Array) -> steps.RecognizerBatch:
    """Images `item` of one step."""
    key = jax.random.fold_in(data.key, number)
    return steps.RecognizerBatch(flat(data.faces)[item["index"]], flat(data.labels)[item["index"]], item["place"], key)


def image_batch(data: Data, item: Any, number: jax.Array) -> steps.ImageBatch:
    """Images `item` of one step."""
    key = jax.random.fold_in(data.key, number)
    return steps.ImageBatch(flat(data.faces)[item["index"]], flat(data.embeddings)[item["index"]], item["place"], key)


def person_batch(data: Data, item: Any, number: jax.Array) -> steps.PersonBatch:
    """Persons `item` of one step."""
    index = item["index"]
    return steps.PersonBatch(
        data.faces[index],
        data.embeddings[index],
        jax.tree.map(lambda x: x[index], data.spaces),
        (item["place"][:, None] * PER_PERSON + jnp.arange(PER_PERSON)).reshape(-1),
        jax.random.fold_in(data.key, number),
    )


def gan(optimiser: optax.GradientTransformation, axis_name: str | None = steps.DEVICES) -> steps.Gan:
    """The small networks with weights of the losses that let each be seen in the gradient."""
    return steps.Gan(SmallGenerator(axis_name), SmallDiscriminator(axis_name), optimiser, 0.5, 10.0, 1.0, BATCH)


def gan_state(networks: steps.Gan) -> state.GanState:
    """Fresh state."""
    return state.init_gan(networks.generator, networks.discriminator, SIZE, networks.optimiser, jax.random.key(1))


def embedder(data: Data) -> Callable[[jax.Array], jax.Array]:
    """The surrogate with its variables."""
    return lambda faces: embed(SmallRecognizer(), data.surrogate, faces)


def person_config(kind: str, distance: str = "cosine") -> PersonConfig:
    """Settings of stage II that its step reads."""
    return PersonConfig(subspace=kind, distance=distance, projection_iterations=10)  # type: ignore[arg-type]


def run_steps(
    bind: Callable[[Data], Any],
    gather: Callable[..., Any],
    initial: Any,
    data: Data,
    *,
    items: int,
    count: int,
    devices: int,
    kind: str,
) -> tuple[Any, dict[str, np.ndarray]]:
    """`count` steps over all `items`, each in another order, on so many devices: state and metrics on the host."""
    chosen = jax.local_devices()[:devices]
    rng = np.random.default_rng(11)
    index = np.stack([rng.permutation(items) for _ in range(count)]).astype(np.int32)
    chunk = {"index": index, "place": np.broadcast_to(np.arange(items, dtype=np.int32), index.shape).copy()}
    run = parallel.parallelise(parallel.scan_steps(bind, gather, unroll=count <= 2), chosen, kind)
    # A donated argument is used up, so each run gets its own copy.
    own = jax.tree.map(jnp.copy, initial)
    new, metrics = run(placement.replicate(own, chosen), placement.replicate(data, chosen), chunk)
    return jax.device_get(new), {name: np.asarray(value) for name, value in metrics.items()}


def relative(a: Any, b: Any) -> float:
    """L2 norm of the difference of two trees over that of the second."""
    first, second = (np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(t)]) for t in (a, b))
    return float(np.linalg.norm(first - second) / np.linalg.norm(second))
