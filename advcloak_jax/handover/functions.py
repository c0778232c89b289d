"""What is handed over: functions of images with a network's variables bound, for any number of images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from advcloak_jax import images
from advcloak_jax.cloaks import averaged
from advcloak_jax.recognizers import recognizer

PyTree = Any
Shape = tuple[str | int, ...]


class Handed(NamedTuple):
    """A function to hand over.

    call: pure, of float32 arrays. inputs: shape of each argument; a letter stands for any number. text: what it does.
    """

    call: Callable[..., jax.Array]
    inputs: tuple[Shape, ...]
    text: str


def of_generator(module: nn.Module, variables: PyTree, image_size: int) -> dict[str, Handed]:
    """The functions of a mask generator, by name."""

    def image_masks(faces: jax.Array) -> jax.Array:
        masks: jax.Array = module.apply(variables, faces, train=False)  # type: ignore[assignment]
        return masks

    def person_masks(faces: jax.Array, grey_levels: jax.Array) -> jax.Array:
        return images.rescale(averaged.person_masks(module, variables, faces), grey_levels)

    face = (image_size, image_size, 3)
    return {
        "image_masks": Handed(
            image_masks,
            (("B", *face),),
            "faces [B, H, W, 3] RGB in [0, 1] -> a mask of each in (-1, 1) on the same scale, as generated",
        ),
        "person_masks": Handed(
            person_masks,
            (("P", "N", *face), ()),
            "faces [P, N, H, W, 3] RGB in [0, 1] of P persons, and a norm in grey levels (1200 at 112 x 112, less in "
            "proportion for smaller faces) -> the mask of each person [P, H, W, 3] with that L2 norm, to be added to "
            "any face of the person on the same scale and clipped to [0, 1]",
        ),
    }


def of_universal(mask: jax.Array) -> dict[str, Handed]:
    """The function of a universal mask [H, W, 3], by name."""

    def universal_mask(grey_levels: jax.Array) -> jax.Array:
        return images.rescale(mask, grey_levels)

    text = (
        "a norm in grey levels (1200 at 112 x 112, less in proportion for smaller faces) -> the one mask [H, W, 3] "
        "with that L2 norm, to be added to any face of anybody, RGB in [0, 1], and clipped to [0, 1]"
    )
    return {"universal_mask": Handed(universal_mask, ((),), text)}


def of_recognizer(module: nn.Module, variables: PyTree, image_size: tuple[int, int]) -> dict[str, Handed]:
    """The function of a recogniser, by name. image_size: (height, width) of the faces it is given."""

    def embed(faces: jax.Array) -> jax.Array:
        return recognizer.embed(module, variables, faces)

    text = "faces [B, H, W, 3] RGB in [0, 1] -> unit-norm embeddings [B, d]; the input convention is applied inside"
    return {"embed": Handed(embed, (("B", *image_size, 3),), text)}
