"""Every flag of every program as Markdown: python -m advcloak_jax.jobs.flags > docs/flags.md"""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

import tyro

from advcloak_jax import commands
from advcloak_jax.config import (
    ExportConfig,
    ImportConfig,
    PrepareConfig,
    ProtectConfig,
    SplitConfig,
    TrainConfig,
    flag,
)
from advcloak_jax.training import runs

PROGRAMS: dict[str, type] = {
    **{f"evaluate.py {name}": kind for name, kind in commands.EVALUATIONS.items()},
    commands.PROTECT: ProtectConfig,
    commands.PREPARE: PrepareConfig,
    commands.IMPORT_WEIGHTS: ImportConfig,
    commands.EXPORT: ExportConfig,
}


def texts(kind: type) -> dict[str, str]:
    """The docstring under every field of a settings class and of those it inherits from, by field."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(one):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
                found[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[attr-defined]
    return found


def table(kind: type, *, prefix: str = "", beside: type | None = None) -> list[str]:
    """Rows of the flags of a settings class: all of them, or those that `beside` lacks or has another default for."""
    explained = texts(kind)
    others = {} if beside is None else {field.name: _default(field) for field in dataclasses.fields(beside)}
    rows = ["| Flag | Default | Meaning |", "|---|---|---|"]
    for field in dataclasses.fields(kind):
        default = _default(field)
        if dataclasses.is_dataclass(field.default) or (field.name in others and others[field.name] == default):
            continue
        name = field.name if default is None else f"--{prefix}{flag(field.name)[2:]}"
        shown = {"": "", None: "required"}.get(default, f"`{default}`")
        rows.append(f"| `{name}` | {shown} | {explained[field.name].replace('|', '/')} |")
    return rows


def _default(field: "dataclasses.Field[Any]") -> str | None:
    """As it would be typed; empty for nothing, None where there is none."""
    value = field.default
    if value is dataclasses.MISSING or value is tyro.MISSING:
        return None
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return "" if not value else "yes"
    return "" if value is None else str(value)


def _heading(kind: type) -> list[str]:
    return [(kind.__doc__ or "").strip().splitlines()[0], ""]


def markdown(jobs: Mapping[str, type[TrainConfig]] = runs.JOBS) -> str:
    """The page."""
    lines = [
        "# Flags",
        "",
        "Printed by `python -m advcloak_jax.jobs.flags`; `--help` behind any job says the same. "
        "[cluster.md](cluster.md) tells when to use which.",
        "",
        "## Every training job",
        "",
        *table(TrainConfig),
        "",
        "## The parts that people play (`--split.*`: every training job, and `evaluate.py table` and `ablation`)",
        "",
        *table(SplitConfig, prefix="split."),
    ]
    for name, kind in jobs.items():
        lines += ["", f"## `train.py {name}`", "", *_heading(kind), *table(kind, beside=TrainConfig)]
    for program, kind in PROGRAMS.items():
        lines += ["", f"## `{program}`", "", *_heading(kind), *table(kind)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
