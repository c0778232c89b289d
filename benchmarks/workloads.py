"""Our training steps with everything they need, made of noise: what they cost does not depend on the pictures."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advcloak_jax import images, subspace
from advcloak_jax.config import ImageConfig, PersonConfig, SplitConfig
from advcloak_jax.errors import UserError
from advcloak_jax.networks.discriminator import Discriminator
from advcloak_jax.networks.generator import Generator
from advcloak_jax.recognizers import zoo
from advcloak_jax.recognizers.frozen import freeze
from advcloak_jax.recognizers.recognizer import Recognizer, embed
from advcloak_jax.training import parallel, placement, state, steps
from benchmarks import counts
from benchmarks.sizes import STAGE_ONE, Size

PyTree = Any
PERSONS_HELP = "persons of a batch of stage II (default: 16 images each, as published, but two persons at least)"


class Faces(NamedTuple):
    """Noise [B, H, W, C] uint8 in groups of a person, as large as a batch."""

    pixels: np.ndarray
    per_person: int

    @property
    def unit(self) -> np.ndarray:
        """Float32 in [0, 1]."""
        return images.to_unit(self.pixels)


class Variables(NamedTuple):
    """Flax variables of the networks of a stage."""

    generator: PyTree
    discriminator: PyTree
    surrogate: PyTree


class Workload:
    """One stage's step, compiled, with its state; calling it makes one dispatch of `steps` steps."""

    def __init__(
        self,
        program: Any,
        state: PyTree,
        resident: PyTree,
        chunk: PyTree,
        items: int,
        steps: int,
        compiler: Mapping[str, Any] | None = None,
    ) -> None:
        """program: what `parallel.parallelise` made; items and steps: images and steps of one dispatch.

        compiler: options of XLA by their names.
        """
        self.program, self.state, self.resident, self.chunk = program, state, resident, chunk
        self.items, self.steps = items, steps
        began = time.perf_counter()
        if jax.process_count() > 1:  # what `parallelise` made only calls a compiled function
            program = jax.jit(program, donate_argnums=0)
        lowered = program.lower(state, resident, chunk)
        traced = time.perf_counter()
        self.compiled = lowered.compile(compiler and dict(compiler))
        self.trace_seconds, self.compile_seconds = traced - began, time.perf_counter() - traced

    def __call__(self) -> dict[str, jax.Array]:
        """Metrics of each step of one more dispatch."""
        self.state, metrics = self.compiled(self.state, self.resident, self.chunk)
        return metrics

    def traced(self) -> counts.Count:
        """FLOP and bytes of one dispatch on each device, from its trace."""
        return counts.traced(self.program, self.state, self.resident, self.chunk)


class Resident(NamedTuple):
    """What stays on the devices."""

    faces: jax.Array
    embeddings: jax.Array
    spaces: PyTree
    surrogate: PyTree
    key: jax.Array


class Parts(NamedTuple):
    """A stage's mapped program, what makes its state and what stays on the devices, and indices of its faces."""

    program: Any
    begin: Callable[[Variables], tuple[PyTree, Resident]]
    chunk: dict[str, np.ndarray]


def noise_faces(batch: int, side: int, per_person: int, seed: int = 0) -> Faces:
    """Smooth noise, alike within a person."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(60, 196, (batch // per_person, 1, side // 8, side // 8, 3)).repeat(8, 2).repeat(8, 3)
    pixels = coarse + rng.normal(0, 16, (batch // per_person, per_person, side, side, 3))
    return Faces(pixels.clip(0, 255).astype(np.uint8).reshape(batch, side, side, 3), per_person)


def images_of_person(batch: int, persons: int | None) -> int:
    """Images of a person in stage II's batch, shared by so many `persons`; without them as published, 16 images each,
    but never fewer than two persons.

    Raises UserError when the batch cannot be shared.
    """
    sharing = max(2, batch // SplitConfig().generator_images) if persons is None else persons
    if sharing < 1 or batch % sharing:
        raise UserError(f"--batch {batch} cannot be shared by {sharing} persons; make it a multiple, or set --persons.")
    return batch // sharing


def surrogate_module(size: Size, dtype: Any = jnp.float32) -> Any:
    """The surrogate of a size."""
    return zoo.build(
        size.surrogate, width=size.surrogate_width, embedding_size=size.embedding, dtype=dtype, axis_name=None
    )


def fresh_variables(size: Size, seed: int = 0) -> Variables:
    """Variables of all three networks as large as fresh ones, drawn without compiling their initialisers."""
    faces = jax.ShapeDtypeStruct((1, size.image, size.image, 3), jnp.float32)
    modules = Generator(size.generator), Discriminator(size.discriminator), surrogate_module(size)
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> jax.Array:
        if leaf.ndim > 1:  # kernels, and layer norms' weights for every element
            fan_in = leaf.size / leaf.shape[-1]
            return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * (2 / fan_in) ** 0.5)
        given = {"scale": 1.0, "var": 1.0, "slope": 0.25}
        return jnp.full(leaf.shape, given.get(path[-1].key, 0.0), leaf.dtype)

    shapes = (
        jax.eval_shape(lambda key, x, m=m: m.init(key, x, train=False), jax.random.key(0), faces) for m in modules
    )
    return Variables(*(jax.tree_util.tree_map_with_path(draw, of_module) for of_module in shapes))


def settings(kind: str, batch: int, per_person: int, solver: subspace.Solver = "loops") -> ImageConfig:
    """Published settings of a stage; solver: of the convex hull."""
    if kind == STAGE_ONE:
        return ImageConfig(batch=batch)
    # Warm-up would compute both the class centre and the hull; what lasts is the hull.
    persons = batch // per_person
    return PersonConfig(persons=persons, subspace=kind, warmup_epochs=0, projection_solver=solver)  # type: ignore[arg-type]


def stage(
    kind: str,
    size: Size,
    faces: Faces,
    variables: Variables,
    *,
    dtype: Any = jnp.float32,
    devices: list[jax.Device] | None = None,
    dispatch: int = 1,
    learning_rate: float | None = None,
    cached: bool = True,
    solver: subspace.Solver = "loops",
    compiler: Mapping[str, Any] | None = None,
) -> Workload:
    """Stage I, or stage II with the subspace `kind`, on a batch that is always the same; `dispatch` steps a call.

    compiler: options of XLA by their names.
    cached: the originals' embeddings stay on the device, as in training; else stage I makes them in every step.
    solver: how the convex hull's weights are found.
    """
    devices = devices or jax.local_devices()[:1]
    made = make_parts(kind, size, faces, devices, dtype, dispatch, learning_rate, cached, solver)
    initial, resident = made.begin(variables)
    # The state is donated, so each workload has a copy of its own.
    placed = placement.replicate(jax.tree.map(jnp.copy, initial), devices)
    resident, chunk = placement.replicate(resident, devices), made.chunk
    if jax.process_count() > 1:
        chunk = placement.place(placement.own_part(chunk), devices, "shard_map")
    return Workload(made.program, placed, resident, chunk, len(faces.pixels) * dispatch, dispatch, compiler)


def lowered(
    kind: str,
    size: Size,
    faces: Faces,
    devices: list[jax.Device],
    dtype: Any = jnp.float32,
    solver: subspace.Solver = "loops",
    dispatch: int = 1,
) -> Any:
    """The same steps lowered for `devices`, which need not be there: of state and faces, shapes alone are made."""
    made = make_parts(kind, size, faces, devices, dtype, dispatch, solver=solver)
    state, resident = jax.eval_shape(lambda: made.begin(fresh_variables(size)))
    return made.program.lower(state, resident, jax.eval_shape(lambda: made.chunk))


def make_parts(
    kind: str,
    size: Size,
    faces: Faces,
    devices: list[jax.Device],
    dtype: Any,
    dispatch: int = 1,
    learning_rate: float | None = None,
    cached: bool = True,
    solver: subspace.Solver = "loops",
) -> Parts:
    """What `stage` puts together; its arguments are explained there."""
    batch = len(faces.pixels)
    config = settings(kind, batch, faces.per_person, solver)
    gan = steps.Gan(
        Generator(size.generator, dtype=dtype, axis_name=steps.DEVICES),
        Discriminator(size.discriminator, dtype=dtype, axis_name=steps.DEVICES),
        optax.adam(learning_rate or config.learning_rate, b1=config.beta1, b2=config.beta2),
        config.lambda_norm,
        config.lambda_adversarial,
        images.mask_norm_at(size.image, config.norm_floor),
        batch,
    )
    module = surrogate_module(size, dtype)
    pixels = faces.pixels
    if kind != STAGE_ONE:
        pixels = pixels.reshape(-1, faces.per_person, *pixels.shape[1:])

    def begin(variables: Variables) -> tuple[PyTree, Resident]:
        embeddings = jax.jit(lambda v, x: embed(module, v, x))(variables.surrogate, jnp.asarray(faces.unit))
        by_person = embeddings.reshape(-1, faces.per_person, embeddings.shape[-1])
        spaces = jax.jit(subspace.fit)(by_person)
        if kind != STAGE_ONE:
            embeddings = by_person
        frozen = freeze(Recognizer(module, variables.surrogate), size.image).variables
        resident = Resident(jnp.asarray(pixels), embeddings, spaces, frozen, jax.random.key(0))
        return state.start_gan(variables.generator, variables.discriminator, gan.optimiser), resident

    def bind(resident: Resident) -> Callable[..., Any]:
        def embedder(faces: jax.Array) -> jax.Array:
            return embed(module, resident.surrogate, faces)

        if kind == STAGE_ONE:
            return steps.image_step(gan, embedder)
        assert isinstance(config, PersonConfig)
        return steps.person_step(gan, embedder, config, 0)

    def gather(resident: Resident, item: dict[str, jax.Array], number: jax.Array) -> Any:
        index, key = item["index"], jax.random.fold_in(resident.key, number)
        pictures = images.to_unit(resident.faces[index])
        if kind == STAGE_ONE:
            known = resident.embeddings[index] if cached else embed(module, resident.surrogate, pictures)
            return steps.ImageBatch(pictures, known, item["position"], key)
        places = (item["position"][:, None] * faces.per_person + jnp.arange(faces.per_person)).reshape(-1)
        of_persons = jax.tree.map(lambda x: x[index], resident.spaces)
        return steps.PersonBatch(pictures, resident.embeddings[index], of_persons, places, key)

    index = np.broadcast_to(np.arange(len(pixels), dtype=np.int32), (dispatch, len(pixels))).copy()
    scanned = parallel.scan_steps(bind, gather, unroll=parallel.wants_unrolling(devices), on_nan=config.on_nan)
    program = parallel.parallelise(scanned, devices, "shard_map")
    return Parts(program, begin, {"index": index, "position": index})
