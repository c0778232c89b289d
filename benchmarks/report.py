"""What a result was measured on, and how results are printed."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from advcloak_jax.training.runs import code_version

FLAGS = ("XLA_FLAGS", "OMP_NUM_THREADS", "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
PEERS = ("torch", "cvxpy", "clarabel", "scipy", "faiss-cpu")


class Outcome(NamedTuple):
    """What a subcommand found. settings and figures go to the JSON file, table and notes to the terminal."""

    settings: Mapping[str, Any]
    figures: Mapping[str, Any]
    table: str
    notes: Sequence[str] = ()


def use_cache(folder: Path) -> None:
    """Keep compiled programs in `folder`."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def facts() -> dict[str, Any]:
    """Device, host, versions and commit."""
    device = jax.devices()[0]
    return {
        "device": f"{device.platform} {device.device_kind}",
        "devices": len(jax.devices()),
        "host": f"{platform.machine()}, {os.cpu_count()} cores",
        "processor": _processor(),
        "code": code_version(),
        "peers": {name: version for name in PEERS if (version := _version(name)) is not None},
        "flags": {name: os.environ[name] for name in FLAGS if name in os.environ},
    }


def _processor() -> str:
    """Name of the processor and the vector instructions that decide what its kernels reach."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in reversed(lines) if ":" in line}
    have = set(fields.get("flags", fields.get("Features", "")).split())
    vectors = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "sve", "bf16") if name in have]
    return " ".join([fields.get("model name", platform.processor()), *vectors])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows as aligned text. columns: heading -> "path.to.figure" or "path.to.figure:format"; what is absent is "-"."""
    cells = [list(columns)]
    for row in rows:
        cells.append([_cell(row, spec) for spec in columns.values()])
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    left = [all(not _is_number(line[i]) for line in cells[1:]) for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if is_left else cell.rjust(w) for cell, w, is_left in zip(line, widths, left, strict=True)
        )
        for line in cells
    )


def _cell(row: Mapping[str, Any], spec: str) -> str:
    path, _, form = spec.partition(":")
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return "-" if value is None else format(value, form)


def _is_number(text: str) -> bool:
    return text == "-" or text.lstrip("-")[:1].isdigit()


def render(outcome: Outcome) -> str:
    """Table and notes for the terminal."""
    return "\n".join([outcome.table, *outcome.notes])
