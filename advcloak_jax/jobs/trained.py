"""From the run folder of a trained generator to its cloaks."""

import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax import fingerprint
from advcloak_jax.cloaks.averaged import averaged, per_image
from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.config import NO_STAGE_ONE, ImageConfig, PersonConfig, UniversalConfig
from advcloak_jax.jobs import inputs
from advcloak_jax.jobs.cloak import build_generator
from advcloak_jax.jobs.universal import load_cloak
from advcloak_jax.training.runs import Run

SUFFIX = {"plain": "", "affine-hull": "-AffineHull", "class-centre": "-ClassCenter", "convex-hull": "-ConvexHull"}


def trained_cloaks(run: Run) -> list[tuple[Cloak, str]]:
    """The cloaks of a run, each with the hash of what decides its masks.

    Stage I makes masks per image (AdvFaces) and, averaged, per person (AdvFaces+); stage II one per person (AdvCloak);
    GAP has one for everybody. Raises UserError when the run has no checkpoint or it does not fit its settings.
    """
    config = run.config
    if isinstance(config, UniversalConfig):
        gap = load_cloak(run)
        mask = gap.make_masks(jnp.zeros((1, 1, config.image_size, config.image_size, 3)), jax.random.key(0))
        return [(gap, fingerprint.of_array(np.asarray(mask)))]
    assert isinstance(config, ImageConfig)
    generator = build_generator(config, axis_name=None)
    variables = inputs.load_gan(run)["generator"]
    if isinstance(config, PersonConfig):
        cloaks = [averaged(stage_two_name(config), generator, variables)]
    else:
        cloaks = [per_image("AdvFaces", generator, variables), averaged("AdvFaces+", generator, variables)]
    network = [repr(generator), fingerprint.of_tree(variables), fingerprint.of_code(type(generator).__module__)]
    return [
        (cloak, fingerprint.of_value([network, fingerprint.of_code(cloak.make_masks.__module__)])) for cloak in cloaks
    ]


def stage_two_name(config: PersonConfig) -> str:
    """AdvCloak with its model of the subspace and, where it was trained otherwise than published, how."""
    name = f"AdvCloak{SUFFIX[config.subspace]}"
    if config.generator == NO_STAGE_ONE:
        name += ", no stage I"
    if config.masks == "image":
        name += ", stage II per image"
    return name
