"""A person's photos, and runs with a cloak and a recogniser, small and never trained, for the tests of protect.py."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from advcloak_jax.config import ImageConfig, PersonConfig, ProtectConfig, RecognizerConfig
from advcloak_jax.files import write_json
from advcloak_jax.jobs import protect
from advcloak_jax.networks.discriminator import Discriminator
from advcloak_jax.networks.generator import Generator
from advcloak_jax.recognizers import zoo
from advcloak_jax.training.checkpoint import Checkpoints
from advcloak_jax.training.runs import start_run

SIZE = 32
NARROW: dict[str, Any] = {"width": 0.05, "embedding_size": 16}
LARGE = 3 * SIZE


def drawn(module: Any, seed: int) -> Any:
    """Variables of a network that does something, whatever it is."""
    faces = jnp.zeros((1, SIZE, SIZE, 3))
    shapes = jax.eval_shape(lambda key: module.init(key, faces, train=False), jax.random.key(0))
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.uniform(0.02, 0.2, leaf.shape), jnp.float32), shapes)


def keep(folder: Path, state: Any) -> None:
    checkpoints = Checkpoints(folder / "checkpoints", keep=1)
    checkpoints.save(4, state, 0.0)
    checkpoints.close()


def write_runs(root: Path) -> Path:
    """A recogniser, stage I and stage II, with weights that were never trained."""
    recognizer = start_run(
        "recognizer", RecognizerConfig(run=str(root / "r"), architecture="ir18", image_size=SIZE, **NARROW)
    )
    write_json(recognizer.folder / "split.json", {"surrogate": []})
    variables = drawn(zoo.build("ir18", **NARROW), 1)
    keep(recognizer.folder, {"params": {"backbone": variables["params"]}, "batch_stats": variables["batch_stats"]})
    for name, kind in (("image", ImageConfig), ("person", PersonConfig)):
        settings: dict[str, Any] = {"generator_width": 4, "discriminator_width": 4, "image_size": SIZE}
        run = start_run(name, kind(run=str(root / name), surrogate=str(root / "r"), **settings))
        keep(run.folder, {"generator": drawn(Generator(width=4), 2), "discriminator": drawn(Discriminator(width=4), 3)})
    return root


def write_photos(root: Path) -> Path:
    """Four crops of a face, one larger than the others and in a sub-folder, and what is no photo."""
    (root / "more").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name, side in (("a.png", SIZE), ("b.png", SIZE), ("c.jpg", SIZE), ("more/d.png", LARGE)):
        small = draw.integers(60, 190, (8, 8, 3), np.uint8)
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(root / name, quality=95)
    (root / "notes.txt").write_text("no photo")
    (root / "film.HEIC").touch()
    (root / "torn.png").write_bytes((root / "a.png").read_bytes()[:90])
    return root


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), int)


def run(photos: Path, name: str = "out", **settings: Any) -> Path:
    defaults: dict[str, Any] = {"detector": "crops", "cache": ""} | ({} if "mask" in settings else {"fade": 0})
    out = str(photos.parent / name)
    return protect.run(ProtectConfig(photos=str(photos), out=out, **{**defaults, **settings}))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
