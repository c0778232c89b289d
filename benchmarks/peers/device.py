"""Where PyTorch runs beside JAX, and what it is given there. Needs requirements-peers.txt."""

import contextlib
import gc
import os
from collections.abc import Iterator, MutableMapping

import jax
import torch

from advcloak_jax.errors import UserError

FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
"""Either tells JAX which share of a GPU's memory it may take; both at once are an error of JAX."""


def share_memory(environment: MutableMapping[str, str] = os.environ) -> None:
    """Leave half of a GPU's memory to PyTorch, of which JAX would take three quarters; what is set stays.

    Only before JAX looks for its devices.
    """
    if not any(name in environment for name in FRACTIONS):
        environment[FRACTIONS[0]] = "0.5"


def find(platform: str | None = None) -> str:
    """PyTorch's name of the kind of device that JAX computes on; `platform` is JAX's name, by default of its first.

    On a GPU, PyTorch is told what JAX does by default, products in TF32, and to try out which of cuDNN's convolutions
    is fastest. Raises UserError where PyTorch has no such device: a ratio of two kinds would say nothing.
    """
    platform = platform or jax.local_devices()[0].platform
    if platform == "cpu":
        return "cpu"
    if platform not in ("gpu", "cuda"):
        raise UserError(f"PyTorch has no peer of JAX on {platform}; leave peers out.")
    if not torch.cuda.is_available():
        raise UserError(
            f"This PyTorch ({torch.__version__}) has no CUDA, as JAX has; install one that has, or leave peers out."
        )
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return "cuda"


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Products of float32 with all digits inside, as ours are in the projection."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def wait(device: str) -> None:
    """Until all that was given to `device` is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def forget() -> None:
    """Give back what earlier peers compiled and held, so that the next are compiled for their own shapes alone."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def tolerance(device: str, dtype: str) -> float:
    """Largest relative difference of a loss, over two steps, at which outputs count as the same.

    By the digits of what is multiplied: TF32 has three more than bfloat16, a sum of float32 none fewer.
    """
    if dtype == "bfloat16":
        return 5e-2
    return 6e-3 if device.startswith("cuda") else 1e-3
