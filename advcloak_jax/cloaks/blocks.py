"""Iterative attacks on many persons: a block of persons at a time, every block through the same compiled programs.

Memory is bounded by the block, however many persons there are.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from advcloak_jax.recognizers.frozen import freeze
from advcloak_jax.recognizers.recognizer import Recognizer

PyTree = Any
Surrogates = tuple[Recognizer, ...]

IMAGES_AT_A_TIME = 128
CPU_IMAGES_AT_A_TIME = 40


@dataclasses.dataclass(frozen=True)
class Attack:
    """An iterative attack on the B persons of a block, as pure functions; nothing in it lets persons meet.

    start(surrogates, faces [B, N, H, W, C] in [0, 1], keys [B], ...) -> (context, state): the context stays, the state
    is what steps change. step(surrogates, faces, context, state, number) -> state. masks(state) -> masks.
    """

    steps: int
    start: Callable[..., tuple[PyTree, PyTree]]
    step: Callable[[Surrogates, jax.Array, PyTree, PyTree, jax.Array], PyTree]
    masks: Callable[[PyTree], jax.Array]


def person_keys(key: jax.Array, persons: int) -> jax.Array:
    """One key per person [P], whatever the size of the blocks."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(persons))


def persons_at_a_time(persons: int, images: int, at_a_time: int | None = None) -> int:
    """Persons in a block: blocks of at most `at_a_time` images (default: by the device), all of about one size."""
    most = max(1, (at_a_time or (CPU_IMAGES_AT_A_TIME if is_cpu() else IMAGES_AT_A_TIME)) // images)
    return -(-persons // -(-persons // most))


def is_cpu() -> bool:
    """Whether programs run on the processor: XLA's CPU backend runs convolutions inside loops 20 times slower."""
    return jax.default_backend() == "cpu"


def runner(
    attack: Attack, surrogates: Sequence[Recognizer], *, looped: bool | None = None, at_a_time: int | None = None
) -> Callable[..., jax.Array]:
    """The compiled attack: (faces [P, N, H, W, C], keys [P], *more arrays [P, ...]) -> masks, of all persons.

    looped: the steps as one loop inside the program (default: on accelerators), or one call of the program per step;
    the results are the same. What is compiled depends on the attack, the surrogates' networks and the shape of a block
    only; the last block is padded by repeating its last person. More arrays are given to `attack.start` behind the
    keys.
    """

    def one_block(frozen: Surrogates, *block: jax.Array) -> jax.Array:
        if looped if looped is not None else not is_cpu():
            return _whole(attack, frozen, *block)
        context, state = _start(attack, frozen, *block)
        for number in range(attack.steps):
            state = _step(attack, frozen, block[0], context, state, jnp.int32(number))
        return attack.masks(state)

    def run(faces: jax.Array, keys: jax.Array, *more: jax.Array) -> jax.Array:
        persons = len(faces)
        size = persons_at_a_time(persons, faces.shape[1], at_a_time)
        frozen = tuple(freeze(surrogate, faces.shape[2]) for surrogate in surrogates)
        made = []
        for first in range(0, persons, size):
            block = [_padded(values[first : first + size], size) for values in (faces, keys, *more)]
            made.append(one_block(frozen, *block)[: persons - first])
        return jnp.concatenate(made)

    return run


@functools.partial(jax.jit, static_argnums=0)
def _start(attack: Attack, surrogates: Surrogates, faces: jax.Array, *more: jax.Array) -> tuple[PyTree, PyTree]:
    return attack.start(surrogates, faces, *more)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=4)
def _step(
    attack: Attack, surrogates: Surrogates, faces: jax.Array, context: PyTree, state: PyTree, number: jax.Array
) -> PyTree:
    return attack.step(surrogates, faces, context, state, number)


@functools.partial(jax.jit, static_argnums=0)
def _whole(attack: Attack, surrogates: Surrogates, faces: jax.Array, *more: jax.Array) -> jax.Array:
    context, state = attack.start(surrogates, faces, *more)
    state = lax.fori_loop(
        0, attack.steps, lambda number, state: attack.step(surrogates, faces, context, state, number), state
    )
    return attack.masks(state)


def _padded(values: jax.Array, size: int) -> jax.Array:
    """Persons [p, ...] filled up to [size, ...] with the last one."""
    missing = size - len(values)
    return jnp.concatenate([values, jnp.repeat(values[-1:], missing, axis=0)]) if missing else values
