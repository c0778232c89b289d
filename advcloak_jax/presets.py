"""Named sets of defaults: `paper` is the classes' own, `fast` and `demo` are for a few minutes of training."""

import dataclasses
from typing import Any, TypeVar

from advcloak_jax.config import SplitConfig
from advcloak_jax.errors import UserError
from advcloak_jax.settings import NOT_STORED

T = TypeVar("T")

DEMO_SPLIT = SplitConfig(
    protected=40, n_inference=10, n_test=5, generator=120, generator_images=16, validation=20, surrogate=200, target=200
)

DEMO: dict[str, dict[str, Any]] = {
    "recognizer": {
        "data": ("synthetic:640x20",),
        "split": DEMO_SPLIT,
        "image_size": 48,
        "architecture": "ir18",
        "width": 0.25,
        "embedding_size": 128,
        "margin": "cosface",
        "margin_scale": 30.0,
        "margin_value": 0.2,
        "batch": 64,
        "steps": 250,
        "learning_rate": 0.1,
        "warmup_steps": 25,
        "schedule": "cosine",
        "steps_per_dispatch": 1,
        "log_every": 10,
        "checkpoint_every": 125,
    },
    "image": {
        "generator_width": 16,
        "discriminator_width": 16,
        "lambda_norm": 4.0,
        "steps": 150,
        "learning_rate": 5e-4,
        "steps_per_dispatch": 1,
        "log_every": 10,
        "checkpoint_every": 75,
    },
    "universal": {
        "generator_width": 16,
        "steps": 150,
        "learning_rate": 5e-4,
        "steps_per_dispatch": 1,
        "log_every": 10,
        "checkpoint_every": 75,
    },
    "person": {
        "lambda_norm": 4.0,
        "steps": 200,
        "learning_rate": 2e-4,
        "warmup_epochs": 0.5,
        "steps_per_dispatch": 1,
        "log_every": 10,
        "checkpoint_every": 100,
    },
}
"""What the demo changes, job by job; everything else is as published."""


FAST_SPLIT = SplitConfig(
    protected=50, n_inference=10, n_test=5, generator=240, generator_images=16, validation=40, surrogate=400, target=400
)

FAST: dict[str, dict[str, Any]] = {
    "recognizer": {
        "data": ("synthetic:1200x20",),
        "split": FAST_SPLIT,
        "architecture": "ir18",
        "margin": "cosface",
        "dtype": "bfloat16",
        "batch": 256,
        "steps": 1500,
        "warmup_steps": 100,
        "schedule": "cosine",
        "checkpoint_every": 500,
    },
    "image": {
        "lambda_norm": 4.0,
        "dtype": "bfloat16",
        "batch": 128,
        "steps": 600,
        "learning_rate": 4e-4,
        "checkpoint_every": 300,
    },
    "universal": {
        "dtype": "bfloat16",
        "batch": 128,
        "steps": 600,
        "learning_rate": 4e-4,
        "checkpoint_every": 300,
    },
    "person": {
        "lambda_norm": 4.0,
        "dtype": "bfloat16",
        "persons": 8,
        "steps": 600,
        "learning_rate": 1e-4,
        "warmup_epochs": 4.0,
        "checkpoint_every": 300,
    },
}
"""What `fast` changes: networks and faces of the published size, a smaller surrogate, and steps for some 12 PFLOP in
all, which is five minutes at 40 TFLOP/s. So it was reckoned; it was not timed on an accelerator."""

PRESETS: dict[str, dict[str, dict[str, Any]]] = {"paper": {}, "fast": FAST, "demo": DEMO}


def settings(job: str, kind: type[T], preset: str) -> T:
    """Default settings of a job under a preset. Raises UserError for an unknown preset."""
    if preset not in PRESETS:
        raise UserError(f"--preset {preset} is not known; use {', '.join(PRESETS)}.")
    return kind(**PRESETS[preset].get(job, {}))


def changes(config: Any) -> list[tuple[str, Any, Any]]:
    """Settings that differ from the published defaults: (name, published value, value), without paths and data."""
    published = type(config)()
    silent = {"run", "data", "surrogate", "generator", "cache", "on_bad_image", "devices", "keep", *NOT_STORED}
    found = []
    for field in dataclasses.fields(config):
        before, now = getattr(published, field.name), getattr(config, field.name)
        if field.name == "split":
            pairs = zip(dataclasses.asdict(before).items(), dataclasses.asdict(now).values(), strict=True)
            found += [(f"split.{name}", a, b) for (name, a), b in pairs if a != b]
        elif field.name not in silent and before != now:
            found.append((field.name, before, now))
    return found
