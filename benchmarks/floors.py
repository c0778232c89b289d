"""Floors: what each network and step must compute and move, the device's measured rates, and our distance from them."""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from advcloak_jax.networks.discriminator import Discriminator
from advcloak_jax.networks.generator import Generator
from advcloak_jax.recognizers.recognizer import embed
from benchmarks import counts, hardware, report, timing, workloads
from benchmarks.sizes import SIZES, STAGE_ONE, Size

COLUMNS = {
    "what": "what",
    "GMAC/image": "gmac_per_image:.3f",
    "traced GFLOP": "gflop_per_image:.2f",
    "XLA GFLOP": "xla_gflop_per_image:.2f",
    "MB/image": "mb_per_image:.1f",
    "floor ms": "floor_ms_per_image:.2f",
    "bound by": "bound_by",
    "measured ms": "ms_per_image:.1f",
    "x floor": "times_floor:.2f",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subcommand."""
    parser.add_argument("--size", default="full", choices=SIZES, help="default %(default)s, as published")
    parser.add_argument("--batch", type=int, default=8, help="images per call (default %(default)s)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="default %(default)s")


def run(options: argparse.Namespace) -> report.Outcome:
    """Networks forward and with their gradients, and a step of each stage."""
    if options.quick:
        options.size, options.batch, options.repeats = "quick", 4, 1
    size, dtype = SIZES[options.size], jnp.dtype(options.dtype)
    rate = hardware.matrix_rate(options.dtype, quick=options.quick)
    bandwidth = hardware.copy_bandwidth(quick=options.quick)
    faces = workloads.noise_faces(options.batch, size.image, options.batch // 2)
    variables = workloads.fresh_variables(size)
    pictures = jnp.asarray(faces.unit)
    rows = []

    def add(what: str, macs: float | None, count: counts.Count, program: Any, call: Callable[[], Any]) -> None:
        found = timing.measure(call, options.repeats, hold_pieces=not options.give_back)
        by = {
            "arithmetic": count.flop / rate["flop_per_second"],
            "memory": count.bytes / bandwidth["bytes_per_second"],
        }
        bound = max(by, key=lambda name: by[name])
        each = 1e3 / options.batch
        rows.append(
            {
                "what": what,
                "gmac_per_image": macs and macs / 1e9,
                "gflop_per_image": count.flop / options.batch / 1e9,
                "xla_gflop_per_image": hardware.flops(program) / options.batch / 1e9,
                "mb_per_image": count.bytes / options.batch / 1e6,
                "floor_ms_per_image": by[bound] * each,
                "bound_by": bound,
                "ms_per_image": found.median * each,
                "times_floor": found.median / by[bound],
                "timing": found.summary(options.batch),
            }
        )

    for name, function, arguments, macs in _networks(size, dtype, variables, pictures):
        compiled = jax.jit(function).lower(*arguments).compile()
        count = counts.traced(function, *arguments)
        add(name, macs, count, compiled, lambda c=compiled, a=arguments: c(*a))
    for kind in (STAGE_ONE, "convex-hull"):
        step = workloads.stage(kind, size, faces, variables, dtype=dtype)
        add(kind + " step", counts.step_flop(size) / 2, step.traced(), step.compiled, step)
    notes = [
        f"floor: the larger of FLOP / {rate['flop_per_second'] / 1e9:,.0f} GFLOP/s (measured, square matrices) and "
        f"bytes / {bandwidth['bytes_per_second'] / 1e9:,.1f} GB/s (measured, x + 1).",
        "GMAC: closed form, with padding; a step's: what it needs. traced: multiply-adds of what is run, without "
        "padding. XLA: its own count, all operations.",
    ]
    settings = {name: getattr(options, name) for name in ("size", "batch", "dtype", "repeats")}
    figures = {"matrix_rate": rate, "copy_bandwidth": bandwidth, "rows": rows}
    return report.Outcome(settings, figures, report.table(rows, COLUMNS), notes)


def _networks(
    size: Size, dtype: Any, variables: workloads.Variables, pictures: jax.Array
) -> list[tuple[str, Callable[..., Any], tuple[Any, ...], float]]:
    """(name, function, arguments, closed-form multiply-adds for an image) of each network and its gradients."""
    generator, discriminator = Generator(size.generator, dtype=dtype), Discriminator(size.discriminator, dtype=dtype)
    surrogate = workloads.surrogate_module(size, dtype)

    def trained(module: Any) -> Callable[..., Any]:
        def loss(params: Any, rest: Any, pictures: jax.Array) -> jax.Array:
            made, _ = module.apply({"params": params, **rest}, pictures, train=True, mutable=["batch_stats"])
            return jnp.sum(made)

        return jax.grad(loss)

    def split(of: Any) -> tuple[Any, Any]:
        return of["params"], {name: value for name, value in of.items() if name != "params"}

    def attacked(variables: Any, pictures: jax.Array) -> jax.Array:
        return jax.grad(lambda x: jnp.sum(embed(surrogate, variables, x)[:, 0]))(pictures)

    g, d, s = (
        counts.macs(layers(size))
        for layers in (counts.generator_layers, counts.discriminator_layers, counts.surrogate_layers)
    )
    first_g, first_d = counts.generator_layers(size)[0].macs, counts.discriminator_layers(size)[0].macs
    return [
        ("generator", lambda v, x: generator.apply(v, x, train=False), (variables.generator, pictures), g),
        ("generator, trained", trained(generator), (*split(variables.generator), pictures), 3 * g - first_g),
        ("discriminator", lambda v, x: discriminator.apply(v, x, train=False), (variables.discriminator, pictures), d),
        (
            "discriminator, trained",
            trained(discriminator),
            (*split(variables.discriminator), pictures),
            3 * d - first_d,
        ),
        ("surrogate", lambda v, x: embed(surrogate, v, x), (variables.surrogate, pictures), s),
        ("surrogate, by its input", attacked, (variables.surrogate, pictures), 2 * s),
    ]
