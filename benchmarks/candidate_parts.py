"""Candidates that are measured on the part of a step they change. Each makes (size, images) -> the old and new way."""

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from advcloak_jax.networks import winograd
from advcloak_jax.networks.convolution import convolution
from advcloak_jax.networks.generator import Generator
from advcloak_jax.networks.norms import BatchNorm
from advcloak_jax.networks.upsampling import upsample_conv
from advcloak_jax.recognizers.recognizer import embed, normalise
from benchmarks import workloads
from benchmarks.folded_surrogate import fold, folded_features
from benchmarks.sizes import Size

NO_YNNPACK = "xla_cpu_experimental_ynn_fusion_type", "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
"""XLA's option that leaves convolutions to Eigen and matrix products to YNNPACK (jax 0.10)."""

OLD_FUSIONS = "xla_cpu_use_fusion_emitters", False
"""XLA's option that writes fused loops as it did before, which compiles in half the time."""

TWO_DEVICES = ("one exchange each way for a batch norm",)


class Pair(NamedTuple):
    """Two calls that return the same, and the steps that each makes."""

    old: Callable[[], Any]
    new: Callable[[], Any]
    old_steps: int = 1
    new_steps: int = 1


def noise(*shape: int, seed: int = 0) -> jax.Array:
    """Normal numbers of this shape, float32."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def bound(function: Callable[..., Any], *arguments: Any, compiler: dict[str, Any] | None = None) -> Callable[[], Any]:
    """A compiled call; compiler: XLA's options by their names."""
    compiled = jax.jit(function).lower(*arguments).compile(compiler)
    return lambda: compiled(*arguments)


def without_winograd() -> AbstractContextManager[Any]:
    """What is traced inside has no convolution of Winograd's, as before there were any."""
    return mock.patch.multiple(winograd, CHANNELS=math.inf, GRADIENT_CHANNELS=math.inf)


def by_all(function: Callable[..., jax.Array], *arguments: Any) -> Callable[[], Any]:
    """What `function` returns and its gradients by every argument."""

    def run(*arguments: Any) -> Any:
        made, pull_back = jax.vjp(function, *arguments)
        return made, pull_back(made)

    return bound(run, *arguments)


def _by_faces(size: Size, batch: int) -> tuple[Callable[..., jax.Array], tuple[Any, jax.Array]]:
    """The gradient of the frozen surrogate by its input, and its arguments."""
    module, variables = workloads.surrogate_module(size), workloads.fresh_variables(size).surrogate
    faces = jnp.asarray(workloads.noise_faces(batch, size.image, batch).unit)

    def loss(faces: jax.Array, variables: Any) -> jax.Array:
        return jnp.sum(embed(module, variables, faces)[:, 0])

    return (lambda variables, faces: jax.grad(loss)(faces, variables)), (variables, faces)


def _by_generator(size: Size, batch: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The gradient of the generator's masks by its parameters, and its arguments."""
    generator, variables = Generator(size.generator), workloads.fresh_variables(size).generator
    faces = jnp.asarray(workloads.noise_faces(batch, size.image, batch).unit)

    def loss(params: Any, stats: Any, faces: jax.Array) -> jax.Array:
        given = {"params": params, "batch_stats": stats}
        return jnp.sum(generator.apply(given, faces, train=True, mutable=["batch_stats"])[0])

    return jax.grad(loss), (variables["params"], variables["batch_stats"], faces)


def flag(name: str, value: Any, part: Callable[[Size, int], Any]) -> Callable[[Size, int], Pair]:
    """A part compiled as XLA does by itself, against with an option of its own."""

    def make(size: Size, batch: int) -> Pair:
        function, arguments = part(size, batch)
        return Pair(bound(function, *arguments), bound(function, *arguments, compiler={name: value}))

    return make


def convolution_without_padding(size: Size, batch: int) -> Pair:
    """A residual block's convolution as XLA has it, against with a column more on both sides; with gradients."""
    side, channels = size.image // 4 + 2, 4 * size.generator
    arguments = noise(batch, side, side, channels), noise(3, 3, channels, channels, seed=1)

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    with without_winograd():
        wider = by_all(lambda x, kernel: convolution(x, kernel, 1, 0), *arguments)
    return Pair(by_all(plain, *arguments), wider)


def one_generator_pass(size: Size, batch: int) -> Pair:
    """The generator's masks made for D and again for G, against once for both."""
    generator = Generator(size.generator)
    variables = workloads.fresh_variables(size).generator
    faces = jnp.asarray(workloads.noise_faces(batch, size.image, batch).unit)

    def masks(params: Any, faces: jax.Array) -> jax.Array:
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        return generator.apply(given, faces, train=True, mutable=["batch_stats"])[0]  # type: ignore[return-value]

    def run(params: Any, faces: jax.Array, *, twice: bool) -> Any:
        made, pull_back = jax.vjp(lambda params: masks(params, faces), params)
        # Without the barrier XLA would see that both passes are the same.
        for_discriminator = masks(params, lax.optimization_barrier(faces)) if twice else made
        return for_discriminator, pull_back(made)

    arguments = variables["params"], faces
    return Pair(*(bound(functools.partial(run, twice=twice), *arguments) for twice in (True, False)))


def surrogate_weights_frozen(size: Size, batch: int) -> Pair:
    """The surrogate's gradients by its weights and input, against by its input alone."""
    module, variables = workloads.surrogate_module(size), workloads.fresh_variables(size).surrogate
    faces = jnp.asarray(workloads.noise_faces(batch, size.image, batch).unit)

    def loss(faces: jax.Array, variables: Any) -> jax.Array:
        return jnp.sum(embed(module, variables, faces)[:, 0])

    with_weights = bound(jax.grad(loss, argnums=(0, 1)), faces, variables)
    return Pair(lambda: with_weights()[0], bound(jax.grad(loss), faces, variables))


def batch_norm_folded(size: Size, batch: int) -> Pair:
    """The frozen surrogate as trained, against with its batch norms folded into its convolutions; by its input."""
    module, variables = workloads.surrogate_module(size), workloads.fresh_variables(size).surrogate
    faces = jnp.asarray(workloads.noise_faces(batch, size.image, batch).unit)
    folded = jax.jit(lambda variables: fold(variables, size.units, size.image))(variables)

    def by_input(features: Callable[[Any, jax.Array], jax.Array]) -> Callable[[Any, jax.Array], Any]:
        return lambda given, faces: jax.value_and_grad(lambda x: jnp.sum(normalise(features(given, x))[:, 0]))(faces)

    def as_trained(variables: Any, faces: jax.Array) -> jax.Array:
        return module.apply(variables, faces, train=False)  # type: ignore[no-any-return]

    new = functools.partial(folded_features, units=size.units)
    return Pair(bound(by_input(as_trained), variables, faces), bound(by_input(new), folded, faces))


def transposed_convolution(size: Size, batch: int) -> Pair:
    """XLA's transposed convolution, against a matrix product and depth-to-space; with gradients."""
    side, channels = size.image // 4, 4 * size.generator
    arguments = noise(batch, side, side, channels), noise(4, 4, channels, channels // 2, seed=1)
    old = lambda x, kernel: lax.conv_transpose(x, kernel, (2, 2), "SAME")  # noqa: E731
    return Pair(by_all(old, *arguments), by_all(upsample_conv, *arguments))


def reflect_padding(size: Size, batch: int) -> Pair:
    """A residual block's convolution with reflection, against with zeros: more than any other padding could win."""
    side, channels = size.image // 4, 4 * size.generator

    def padded(x: jax.Array, kernel: jax.Array, mode: str) -> jax.Array:
        made = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode) if mode == "reflect" else x
        return convolution(made, kernel, 1, 0 if mode == "reflect" else 1)

    arguments = noise(batch, side, side, channels), noise(3, 3, channels, channels, seed=1)
    ways = [by_all(functools.partial(padded, mode=mode), *arguments) for mode in ("reflect", "zero")]
    return Pair(*(lambda way=way: way()[0][:, 2:-2, 2:-2] for way in ways))  # type: ignore[misc]


def channels_padded(size: Size, batch: int) -> Pair:
    """The generator's first convolution on 3 channels, against on 8 of which 5 are zero."""
    arguments = noise(batch, size.image, size.image, 3), noise(7, 7, 3, size.generator, seed=1)

    def padded(x: jax.Array, kernel: jax.Array) -> jax.Array:
        wide = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 5)))
        return convolution(wide, jnp.pad(kernel, ((0, 0), (0, 0), (0, 5), (0, 0))), 1, 3)

    return Pair(by_all(lambda x, kernel: convolution(x, kernel, 1, 3), *arguments), by_all(padded, *arguments))


def layout(size: Size, batch: int) -> Pair:
    """A convolution of the surrogate with channels last, against channels first; with gradients."""
    side, channels = size.image // 2, size.channels[0]
    x, kernel = noise(batch, side, side, channels), noise(3, 3, channels, channels, seed=1)

    def first(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NCHW", "HWIO", "NCHW"))

    def last(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    old, new = by_all(last, x, kernel), by_all(first, jnp.moveaxis(x, -1, 1), kernel)
    return Pair(lambda: old()[1][1], lambda: new()[1][1])


def flipped_kernels(size: Size, batch: int) -> Pair:
    """The input gradient of the surrogate's widest convolution: its kernel flipped in the step, against beforehand."""
    side, channels = max(2, size.image // 16), size.channels[-1]
    x, kernel = noise(batch, side, side, channels), noise(3, 3, channels, channels, seed=1)
    flip = lambda kernel: kernel[::-1, ::-1].swapaxes(2, 3)  # noqa: E731
    old = bound(lambda x, kernel: convolution(x, flip(kernel), 1, 1), x, kernel)
    return Pair(old, bound(lambda x, kernel: convolution(x, kernel, 1, 1), x, jax.jit(flip)(kernel)))


def fused_optimiser(size: Size, batch: int) -> Pair:
    """Adam leaf by leaf, against on all of the generator's parameters as one vector."""
    params = workloads.fresh_variables(size).generator["params"]
    gradients = jax.tree.map(lambda p: 0.01 * p + 1e-3, params)

    def updated(optimiser: optax.GradientTransformation) -> Callable[[], Any]:
        state = optimiser.init(params)
        step = lambda gradients, state, params: optax.apply_updates(  # noqa: E731
            params, optimiser.update(gradients, state, params)[0]
        )
        return bound(step, gradients, state, params)

    adam = optax.adam(1e-3, b1=0.5)
    return Pair(updated(adam), updated(optax.flatten(adam)))


def one_exchange(size: Size, batch: int) -> Pair:
    """Batch norms over two devices that exchange mean and variance one after the other, and so in the gradient, against
    one exchange each way.
    """
    channels, layers = 4 * size.generator, 12
    values = noise(batch, 4, 4, channels)
    norm = BatchNorm(axis_name="d")
    variables = BatchNorm().init(jax.random.key(0), values, train=False)

    def before(x: jax.Array) -> jax.Array:
        mean = x.mean((0, 1, 2))
        var = jnp.square(x - mean).mean((0, 1, 2))
        overall = lax.pmean(mean, "d")
        return (x - overall) * lax.rsqrt(lax.pmean(var + jnp.square(mean - overall), "d") + 1e-5)

    def after(x: jax.Array) -> jax.Array:
        return norm.apply(variables, x, train=True, mutable=["batch_stats"])[0]  # type: ignore[return-value]

    def chained(layer: Callable[[jax.Array], jax.Array]) -> Callable[[], Any]:
        def run(x: jax.Array) -> jax.Array:
            for _ in range(layers):
                x = jnp.tanh(layer(x))
            return x

        mesh = Mesh(np.array(jax.local_devices()[:2]), ("d",))
        mapped = jax.shard_map(
            jax.grad(lambda x: jnp.sum(jnp.square(run(x)))),
            mesh=mesh,
            in_specs=P("d"),
            out_specs=P("d"),
            check_vma=False,
        )
        return bound(mapped, values)

    return Pair(chained(before), chained(after))


PAIRS: dict[str, Callable[[Size, int], Pair]] = {
    "one generator pass for D and G": one_generator_pass,
    "no gradient to the surrogate's weights": surrogate_weights_frozen,
    "batch norm folded into the surrogate": batch_norm_folded,
    "transposed convolution as a product": transposed_convolution,
    "reflect padding": reflect_padding,
    "channels padded": channels_padded,
    "layout": layout,
    "convolution without padding": convolution_without_padding,
    "flipped kernels": flipped_kernels,
    "fused optimiser": fused_optimiser,
    "one exchange each way for a batch norm": one_exchange,
    "flag: older fusion kernels, surrogate": flag(*OLD_FUSIONS, _by_faces),
    "flag: older fusion kernels, generator": flag(*OLD_FUSIONS, _by_generator),
    "flag: no YNNPACK convolutions, surrogate": flag(*NO_YNNPACK, _by_faces),
    "flag: no YNNPACK convolutions, generator": flag(*NO_YNNPACK, _by_generator),
    "flag: 512-bit vectors, surrogate": flag("xla_cpu_prefer_vector_width", 512, _by_faces),
    "flag: scheduler for concurrency, generator": flag(
        "xla_cpu_enable_concurrency_optimized_scheduler", True, _by_generator
    ),
}
