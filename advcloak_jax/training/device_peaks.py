"""Published peaks of accelerators: dense (not sparse) TFLOP/s and memory bandwidth, per device of JAX."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Peak:
    """bfloat16, tf32, float32: TFLOP/s, None where the device has no such units. bandwidth: of its memory, GB/s."""

    bfloat16: float | None
    tf32: float | None
    float32: float | None
    bandwidth: float

    def flops(self, dtype: str) -> float | None:
        """FLOP/s that networks computing in `dtype` cannot exceed, by JAX's default precision.

        float32 products run in TF32 where there is such a unit, and in bfloat16 on TPUs. None where it is not known.
        """
        by_float32 = self.tf32 or self.float32 or self.bfloat16
        found = self.bfloat16 if dtype == "bfloat16" else by_float32
        return None if found is None else found * 1e12


_PEAKS: tuple[tuple[str, Peak], ...] = (
    # NVIDIA A100 Tensor Core GPU data sheet (2021).
    (r"NVIDIA A100-(SXM4|PCIE)-40GB", Peak(312, 156, 19.5, 1555)),
    (r"NVIDIA A100-SXM4-80GB", Peak(312, 156, 19.5, 2039)),
    (r"NVIDIA A100 80GB PCIe", Peak(312, 156, 19.5, 1935)),
    # NVIDIA H100 Tensor Core GPU data sheet; its figures "with sparsity", halved.
    (r"NVIDIA H100 80GB HBM3", Peak(989, 494.5, 67, 3350)),
    (r"NVIDIA H100 PCIe", Peak(756, 378, 51, 2000)),
    (r"NVIDIA H100 NVL", Peak(835, 417.5, 60, 3900)),
    # NVIDIA H200 Tensor Core GPU data sheet, likewise (SXM).
    (r"NVIDIA H200", Peak(989, 494.5, 67, 4800)),
    # NVIDIA V100 Tensor Core GPU data sheet: its tensor cores have float16, neither bfloat16 nor TF32.
    (r"(NVIDIA |Tesla )*V100-SXM2-(16|32)GB", Peak(None, None, 15.7, 900)),
    (r"(NVIDIA |Tesla )*V100-PCIE-(16|32)GB", Peak(None, None, 14, 900)),
    # NVIDIA L4 Tensor Core GPU data sheet; its figures "with sparsity", halved.
    (r"NVIDIA L4", Peak(121, 60, 30.3, 300)),
    # NVIDIA T4 data sheet: as V100.
    (r"(NVIDIA |Tesla )*T4", Peak(None, None, 8.1, 320)),
    # Google Cloud TPU documentation, system architecture pages: per chip; a device of v3 is one of its two cores.
    (r"TPU v3", Peak(123 / 2, None, None, 900 / 2)),
    (r"TPU v4", Peak(275, None, None, 1228)),
    (r"TPU (v5 lite|v5e)", Peak(197, None, None, 819)),
    (r"TPU (v5|v5p)", Peak(459, None, None, 2765)),
    (r"TPU (v6 lite|v6e)", Peak(918, None, None, 1640)),
)


def find(device_kind: str) -> Peak | None:
    """Peaks of a device by the name JAX gives its kind; None where it is not in the table: it is never guessed."""
    return next((peak for pattern, peak in _PEAKS if re.fullmatch(pattern, device_kind)), None)
