"""Named sets of defaults: `paper` is the classes' own, `demo` shrinks everything to a few minutes on two CPU cores."""

import dataclasses
from typing import Any, TypeVar

from advcloak_jax.config import SplitConfig
from advcloak_jax.errors import UserError

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


def settings(job: str, kind: type[T], preset: str) -> T:
    """Default settings of a job under a preset. Raises UserError for an unknown preset."""
    if preset == "paper":
        return kind()
    if preset == "demo":
        return kind(**DEMO.get(job, {}))
    raise UserError(f"--preset {preset} is not known; use paper or demo.")


def changes(config: Any) -> list[tuple[str, Any, Any]]:
    """Settings that differ from the published defaults: (name, published value, value), without paths and data."""
    published = type(config)()
    silent = {"run", "data", "surrogate", "generator", "cache", "resume", "preset", "on_bad_image", "devices", "keep"}
    found = []
    for field in dataclasses.fields(config):
        before, now = getattr(published, field.name), getattr(config, field.name)
        if field.name == "split":
            pairs = zip(dataclasses.asdict(before).items(), dataclasses.asdict(now).values(), strict=True)
            found += [(f"split.{name}", a, b) for (name, a), b in pairs if a != b]
        elif field.name not in silent and before != now:
            found.append((field.name, before, now))
    return found
