"""Published peaks of accelerators: dense (not sparse) TFLOP/s, per device of JAX.

Each figure was read from a page of the device's maker, named beside it. "Data sheets": as NVIDIA's own TensorRT-LLM
quotes them without sparsity, with the addresses of the sheets, in
https://github.com/NVIDIA/TensorRT-LLM/blob/16d2467ea8e3b45d7d9555010c2ad018d006d5c1/tensorrt_llm/auto_parallel/cluster_info.py
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Peak:
    """TFLOP/s of products of bfloat16 and of TF32; tf32 is None where the device has no units for it."""

    bfloat16: float
    tf32: float | None = None

    def flops(self, dtype: str) -> float:
        """FLOP/s that networks computing in `dtype` cannot exceed, by JAX's default precision.

        float32 products run in TF32 where there is such a unit, and in bfloat16 on TPUs.
        """
        return 1e12 * (self.bfloat16 if dtype == "bfloat16" or self.tf32 is None else self.tf32)


_PEAKS: tuple[tuple[str, Peak], ...] = (
    # Data sheets. That of H200 (SXM) has H100's figures for sparse products, 1979 in bfloat16.
    (r"NVIDIA A100-(SXM4|PCIE)-40GB", Peak(312, 156)),
    (r"NVIDIA A100-SXM4-80GB", Peak(312, 156)),
    (r"NVIDIA A100 80GB PCIe", Peak(312, 156)),
    (r"NVIDIA H100 80GB HBM3", Peak(989, 495)),
    (r"NVIDIA H100 PCIe", Peak(756, 378)),
    (r"NVIDIA H200", Peak(989, 495)),
    (r"NVIDIA L4", Peak(120, 60)),
    # Per chip, bf16. https://cloud.google.com/tpu/docs/v3; a device is one of its chip's two cores.
    (r"TPU v3", Peak(123 / 2)),
    # https://cloud.google.com/tpu/docs/v4
    (r"TPU v4", Peak(275)),
    # https://cloud.google.com/tpu/docs/v5e
    (r"TPU (v5 lite|v5e)", Peak(197)),
    # https://cloud.google.com/tpu/docs/v5p
    (r"TPU (v5|v5p)", Peak(459)),
    # https://cloud.google.com/tpu/docs/v6e
    (r"TPU (v6 lite|v6e)", Peak(918)),
)


def find(device_kind: str) -> Peak | None:
    """Peaks of a device by the name JAX gives its kind; None where it is not in the table: it is never guessed."""
    return next((peak for pattern, peak in _PEAKS if re.fullmatch(pattern, device_kind)), None)
