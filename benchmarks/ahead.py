"""Steps compiled for a GPU that is not there: that they compile, what memory they take, what they launch and move.

Nothing runs, so nothing here is a time. JAX's CUDA plugin and its libraries must be installed (pip install
"jax[cuda13]"); a GPU or its driver need not.
"""

import argparse
import importlib.util
import itertools
import time
from typing import Any, NamedTuple, get_args
from unittest import mock

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from advcloak_jax import subspace
from advcloak_jax.errors import UserError
from benchmarks import counts, gpu_programs, report, workloads
from benchmarks.sizes import SIZES, STAGE_ONE, SUBSPACES, Size

MIB = 2**20
STAGES = (STAGE_ONE, *SUBSPACES)
PLUGINS = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")
COLUMNS = {
    "stage": "stage",
    "batch": "batch",
    "a person's": "images_of_person",
    "compiled in s": "compile_seconds:.0f",
    "GFLOP/image": "gflop_per_image:.2f",
    "state and faces MiB": "arguments_mib:,.0f",
    "temporary MiB": "temporary_mib:,.0f",
    "MiB/image": "temporary_mib_per_image:,.1f",
    "kernels a step": "kernels:,.0f",
    "loops of unknown length": "open_loops:d",
    "maps as kernels": "maps_as_kernels:d",
    "MB moved/image": "moved_mb_per_image:,.0f",
}


class Gpu(NamedTuple):
    """What the compiler is told of a GPU of compute capability 9.0: its name, GB of memory and GB/s."""

    name: str
    memory: float
    bandwidth: float


GPUS = {"h100": Gpu("NVIDIA H100 80GB HBM3", 80, 3350), "h200": Gpu("NVIDIA H200", 141, 4800)}
"""By NVIDIA's data sheets."""


def description(gpu: Gpu) -> str:
    """As XLA's `GpuTargetConfigProto` in text; what is not of the data sheet is of the capability."""
    return f"""
        gpu_device_info {{
          cuda_compute_capability {{ major: 9 }}
          core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
          threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          l2_cache_size: {50 * MIB}
          device_memory_size: {gpu.memory * 1e9:.0f} memory_bandwidth: {gpu.bandwidth * 1e9:.0f}
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 12 }}
        runtime_version {{ major: 13 }}
        device_description_str: "{gpu.name}"
    """


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subcommand."""
    parser.add_argument("--gpu", default="h200", choices=GPUS, help="default %(default)s")
    parser.add_argument("--stages", nargs="+", default=[STAGE_ONE, "convex-hull"], choices=STAGES)
    parser.add_argument("--size", default="full", choices=SIZES, help="default %(default)s, as published")
    parser.add_argument("--batch", type=int, nargs="+", default=[64], help="images per step (default 64)")
    parser.add_argument("--persons", type=int, help=workloads.PERSONS_HELP)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"], help="default %(default)s")
    parser.add_argument("--dispatch", type=int, default=10, help="steps per call (default %(default)s, as in training)")
    solver = "of the convex hull: XLA's loops, one kernel, or both one after the other (default loops)"
    solvers = get_args(subspace.Solver)
    parser.add_argument("--projection-solver", nargs="+", default=["loops"], choices=solvers, help=solver)


def run(options: argparse.Namespace) -> report.Outcome:
    """Every stage and batch. Raises UserError where JAX has no CUDA plugin, or a batch cannot be shared."""
    if options.quick:
        options.size, options.batch, options.stages, options.persons = "quick", [4], options.stages[:1], None
        options.dispatch = 2
    per_person = {batch: workloads.images_of_person(batch, options.persons) for batch in options.batch}
    devices = absent_devices(GPUS[options.gpu])
    size = SIZES[options.size]
    rows = [
        measure(kind, workloads.noise_faces(batch, size.image, per_person[batch]), solver, options, size, devices)
        for kind, batch in itertools.product(options.stages, options.batch)
        for solver in (options.projection_solver if kind == "convex-hull" else ["loops"])
    ]
    settings = {name: getattr(options, name) for name in ("gpu", "size", "persons", "dtype", "dispatch")}
    notes = [
        "compiled, not run: no times. Products are the libraries', for XLA chooses its own by trying them on the GPU.",
        "MB moved: operands and results of every kernel, as if no cache held any; loops of unknown length count once.",
        "maps as kernels: convolutions in which XLA takes a map for the kernel and images for channels, slow on a GPU.",
    ]
    return report.Outcome(settings, {"rows": rows}, report.table(rows, COLUMNS), notes)


def absent_devices(gpu: Gpu) -> list[jax.Device]:
    """One such GPU, to compile for. Raises UserError where JAX's CUDA plugin is not installed."""
    if importlib.util.find_spec("jax_plugins") is None or not any(map(importlib.util.find_spec, PLUGINS)):
        raise UserError('ahead needs JAX\'s CUDA plugin and libraries, but no GPU: pip install "jax[cuda13]".')
    jax.config.update("jax_platforms", "cpu")  # else the plugin looks for a GPU and its driver
    described = topologies.get_topology_desc(platform="cuda", target_config=description(gpu), topology="1x1x1")
    return list(described.devices)


def measure(
    kind: str,
    faces: workloads.Faces,
    solver: subspace.Solver,
    options: argparse.Namespace,
    size: Size,
    devices: list[jax.Device],
) -> dict[str, Any]:
    """One row."""
    # Networks choose their forms for CPUs by the backend that JAX computes on, which is not the one compiled for.
    with mock.patch.object(jax, "default_backend", return_value="gpu"):
        lowered = workloads.lowered(kind, size, faces, devices, jnp.dtype(options.dtype), solver, options.dispatch)
        began = time.perf_counter()
        # Triton's tiles are chosen by trying them on the GPU; those taken without one need not compile.
        compiled = lowered.compile({"xla_gpu_enable_triton_gemm": False})
    seconds = time.perf_counter() - began
    laid_out, launched = compiled.memory_analysis(), gpu_programs.count(compiled.as_text())
    temporary, batch = laid_out.temp_size_in_bytes / MIB, len(faces.pixels)
    return {
        "stage": kind + " in one kernel" * (solver == "kernel"),
        "batch": batch,
        "images_of_person": faces.per_person,
        "compile_seconds": seconds,
        "gflop_per_image": counts.step_flop(size) / 1e9,
        "arguments_mib": laid_out.argument_size_in_bytes / MIB,
        "temporary_mib": temporary,
        "temporary_mib_per_image": temporary / batch,
        "kernels": launched.kernels / options.dispatch,
        "open_loops": launched.open_loops,
        "maps_as_kernels": launched.maps_as_kernels,
        "moved_mb_per_image": launched.bytes / 1e6 / batch / options.dispatch,
    }
