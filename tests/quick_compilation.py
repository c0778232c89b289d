"""XLA_FLAGS that let a CPU's programs compile two to three times as fast (jaxlib 0.10)."""

import os
import subprocess
import sys

FLAGS = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
"""XLA's older way to write kernels; a program in one piece."""


def accepted() -> tuple[str, ...]:
    """FLAGS, or none where jaxlib does not know them: it ends a process that has a flag it does not know."""
    environment = {**os.environ, "XLA_FLAGS": " ".join(FLAGS), "JAX_PLATFORMS": "cpu"}
    tried = subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=environment, capture_output=True)
    return () if tried.returncode else FLAGS


def used() -> str:
    """Those of FLAGS that this process has, for processes with other flags beside them."""
    return " ".join(flag for flag in os.environ.get("XLA_FLAGS", "").split() if flag in FLAGS)
