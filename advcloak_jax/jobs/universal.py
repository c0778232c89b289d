"""`train.py universal`: GAP, a generator of one mask for everybody."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from advcloak_jax import images
from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.cloaks.universal import universal
from advcloak_jax.config import UniversalConfig
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.data.rows import Chosen
from advcloak_jax.data.splits import Split
from advcloak_jax.jobs.cloak import (
    Validation,
    build_generator,
    choose_images,
    image_feed,
    image_gather,
    load_surrogate,
)
from advcloak_jax.jobs.resident import Resident, make_resident
from advcloak_jax.networks.universal_mask import fixed_noise, universal_mask
from advcloak_jax.recognizers.recognizer import Recognizer, embed
from advcloak_jax.training import flops, parallel, placement
from advcloak_jax.training.checkpoint import read_checkpoint, require_shapes
from advcloak_jax.training.loop import Job
from advcloak_jax.training.runs import Run
from advcloak_jax.training.state import UniversalState
from advcloak_jax.training.universal_step import Universal, universal_step

PyTree = Any
COLUMNS = ("adversarial", "validation_universal")


class UniversalValidation(Validation):
    """How well the one mask, at the deployed norm, hides held-out persons from the surrogate itself."""

    def __init__(self, config: UniversalConfig, faces: FaceSet, split: Split, surrogate: Recognizer) -> None:
        super().__init__(config, faces, split, surrogate)
        noise = noise_of(config)
        self._mask = jax.jit(lambda variables: universal_mask(self._generator, variables, noise, config.epsilon)[0])

    def _worn(self, variables: PyTree, *, per_image: bool) -> np.ndarray:
        return images.protect(self.test, np.asarray(images.rescale(self._mask(variables), self._norm)))

    def __call__(self, state: Any) -> dict[str, float]:
        """Mean cosine of protected to clean embeddings: lower hides more."""
        return {"validation_universal": self._cosine(self._worn(state.generator, per_image=False))}


def noise_of(config: UniversalConfig) -> jax.Array:
    """The one input of a run's generator."""
    return fixed_noise(_keys(config)[2], config.image_size)


def _keys(config: UniversalConfig) -> jax.Array:
    """Keys of the initial weights, of the steps and of the noise."""
    return jax.random.split(jax.random.key(config.seed), 3)


def build(config: UniversalConfig, faces: FaceSet, split: Split) -> Job:
    """The job, on at most `config.images` random images of the generator's persons."""
    chosen = choose_images(config, faces, split)
    devices = placement.pick_devices(config.devices, config.batch, "--batch")
    parts = parallel.parts_of(config.accumulate, config.batch, devices, "--batch")
    surrogate = load_surrogate(config)
    generator = build_generator(config, axis_name=None, dtype=config.dtype)
    optimiser = optax.adam(config.learning_rate, b1=config.beta1, b2=config.beta2)
    init_key, step_key, _ = _keys(config)
    noise = noise_of(config)

    def start(key: jax.Array) -> UniversalState:
        variables = generator.init(key, noise, train=False)
        return UniversalState(jnp.int32(0), variables, optimiser.init(variables["params"]))

    initial = jax.jit(start)(init_key)
    total = config.steps or max(1, round(config.epochs * len(chosen) / config.batch))
    feed = image_feed(config, Chosen(faces.images, chosen), surrogate, devices, total)
    resident = make_resident(config, feed, surrogate, step_key, devices)

    def bind(resident: Resident) -> Any:
        return universal_step(
            Universal(generator, optimiser, config.epsilon, parts),
            lambda faces: embed(surrogate.module, resident.surrogate, faces),
            noise,
        )

    scanned = parallel.scan_steps(
        bind, image_gather(feed), unroll=parallel.wants_unrolling(devices), on_nan=config.on_nan
    )
    run = parallel.parallelise(scanned, devices, config.parallel, resident_specs=Resident(feed.specs, P(), P()))

    def advance(state: PyTree, first: int, count: int) -> tuple[PyTree, dict[str, jax.Array]]:
        return run(state, resident, feed.batches(first, count))

    validation = UniversalValidation(config, faces, split, surrogate)
    return Job(
        steps=total,
        images_per_step=config.batch,
        state=placement.replicate(initial, devices),
        advance=advance,
        validate=validation,
        rank=lambda metrics: -metrics["validation_universal"],
        picture=validation.picture,
        columns=COLUMNS,
        flops=flops.universal_step(
            flops.forward(generator, config.image_size),
            flops.forward(surrogate.module, config.image_size),
            config.batch,
        ),
        devices=devices,
        feed=feed,
    )


def load(run: Run) -> tuple[PyTree, jax.Array]:
    """The generator's variables of a run's newest checkpoint, and its one input.

    Raises UserError when there is no checkpoint or it does not fit the run's settings.
    """
    config = run.config
    assert isinstance(config, UniversalConfig)
    step, state = read_checkpoint(run.checkpoints, best=False)
    generator, noise = build_generator(config, axis_name=None), noise_of(config)
    expected = jax.eval_shape(lambda key: generator.init(key, noise, train=False), jax.random.key(0))
    require_shapes(state["generator"], expected, run.checkpoints / str(step))
    return state["generator"], noise


def load_cloak(run: Run, name: str = "GAP") -> Cloak:
    """The mask of a run's newest checkpoint as a cloak. Raises UserError as `load` does."""
    config = run.config
    assert isinstance(config, UniversalConfig)
    return universal(name, build_generator(config, axis_name=None), *load(run), config.epsilon)
