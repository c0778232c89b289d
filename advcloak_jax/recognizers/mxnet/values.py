"""An array of an MXNet graph, stored with its axes in the order that is fast here."""

from typing import NamedTuple

import jax

from advcloak_jax.networks.layers import Initializer

# Orders of storage: which of MXNet's axes each stored axis is. MXNet's feature maps are [B, C, H, W], its convolution
# kernels [O, I, kh, kw], its dense ones [O, I].
CHANNELS_LAST = (0, 2, 3, 1)
KERNEL = (2, 3, 1, 0)
DENSE_KERNEL = (1, 0)


def plain(dimensions: int) -> tuple[int, ...]:
    """The order of an array stored as MXNet has it."""
    return tuple(range(dimensions))


class Value(NamedTuple):
    """An array whose stored axis i is MXNet's axis order[i]."""

    array: jax.Array
    order: tuple[int, ...]

    @classmethod
    def of(cls, array: jax.Array) -> "Value":
        """An array stored as MXNet has it."""
        return cls(array, plain(array.ndim))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as MXNet has it."""
        return tuple(self.array.shape[self.axis(number)] for number in range(len(self.order)))

    def axis(self, number: int) -> int:
        """The stored axis that is MXNet's axis `number` (negative: from the end). ValueError if there is none."""
        dimensions = len(self.order)
        if not -dimensions <= number < dimensions:
            raise ValueError(f"there is no axis {number} in {dimensions} dimensions")
        return self.order.index(number % dimensions)

    def stored(self, order: tuple[int, ...]) -> jax.Array:
        """The array in another order; transposed only where it differs. ValueError for another number of axes."""
        if len(order) != len(self.order):
            raise ValueError(f"{len(order)} dimensions are needed, not {len(self.order)}")
        return self.array if order == self.order else self.array.transpose([self.order.index(axis) for axis in order])

    def plain(self) -> jax.Array:
        """The array as MXNet has it."""
        return self.stored(plain(len(self.order)))

    def along(self, vector: jax.Array, axis: int) -> jax.Array:
        """`vector` [n] shaped to broadcast against the stored array along MXNet's axis `axis`."""
        shape = [1] * len(self.order)
        shape[self.axis(axis)] = -1
        return vector.reshape(shape)


class Parameter(NamedTuple):
    """What an operator reads beside its data: shape as MXNet has it, the order it is stored in, and where.

    collection: "params" or "batch_stats"; initial: makes the stored array where no file gives one.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    collection: str
    initial: Initializer

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in self.order)
