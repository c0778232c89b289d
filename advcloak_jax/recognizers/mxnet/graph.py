"""An MXNet symbol as a Flax module: a frozen recogniser, differentiable by its input."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax.errors import UserError
from advcloak_jax.networks.layers import Dtype
from advcloak_jax.recognizers.convention import Convention, prepare
from advcloak_jax.recognizers.mxnet.interpreter import run
from advcloak_jax.recognizers.mxnet.symbol import parse_symbol, read_symbol
from advcloak_jax.recognizers.mxnet.values import Parameter
from advcloak_jax.recognizers.mxnet.variables import FACE, parameters_of, variables_of

# Most of these symbols scale their pixels themselves.
PIXELS = Convention(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class MxnetGraph(nn.Module):
    """Images to features by an imported graph. Its variables have MXNet's names and cannot be trained.

    symbol: the graph as JSON text, see `parse_symbol`; embedding_size, where given, is checked; axis_name is there
    because every recogniser has it: nothing here depends on other devices.
    """

    symbol: str
    embedding_size: int | None = None
    convention: Convention = PIXELS
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Images [B, H, W, 3] in [0, 1] -> features [B, d] float32, not normalised. ValueError if `train`.

        Raises UserError when the graph cannot run on images of this size, or does not give [B, embedding_size].
        """
        if train:
            raise ValueError("imported graphs are frozen: call with train=False")
        symbol = parse_symbol(self.symbol, "the imported MXNet symbol")
        # In float32: bfloat16 would round the pixels, mask and all, to whole grey levels.
        features = run(symbol, prepare(images, self.convention), self._variable, self.dtype, self.convolved).plain()
        size = self.embedding_size or (features.shape[1] if features.ndim > 1 else 0)
        if features.shape != (images.shape[0], size, *[1] * (features.ndim - 2)):
            name = symbol.nodes[symbol.output[0]].name
            wanted = f"[{images.shape[0]}, {self.embedding_size or 'd'}]"
            raise UserError(
                f"the MXNet layer '{name}' gives {list(features.shape)} where embeddings {wanted} are needed: "
                "name the layer of the embedding."
            )
        return features.reshape(images.shape[0], size).astype(jnp.float32)

    def convolved(self, feature_map: jax.Array) -> jax.Array:
        """A convolution's output [B, h, w, C] as it is; `feature_maps.changed` steps in here."""
        return feature_map

    def _variable(self, name: str, parameter: Parameter) -> jax.Array:
        """The parameter or statistic called `name`, made by its initialiser where there is none yet."""
        if parameter.collection == "params":
            return self.param(name, parameter.initial, parameter.stored_shape, jnp.float32)

        def initialise() -> Any:
            return parameter.initial(jax.random.key(0), parameter.stored_shape, jnp.float32)

        return self.variable(parameter.collection, name, initialise).value


def from_file(
    symbol_file: Path,
    arrays: Mapping[str, np.ndarray],
    convention: Convention = PIXELS,
    *,
    output: str | None = None,
    dtype: Dtype = jnp.float32,
) -> tuple[MxnetGraph, str, dict[str, dict[str, np.ndarray]]]:
    """The module, its symbol as text (cut to what the embedding needs) and its variables, of a published model.

    arrays: as `read_params` gives them; convention: its size, 112 x 112 where it has none, is the size that the graph
    is checked for; output: the layer that gives the embedding, see `parse_symbol`. Raises UserError for a symbol that
    cannot be run, arrays that do not fit it and an output that is no embedding.
    """
    symbol = read_symbol(symbol_file, output)
    size = convention.size or FACE
    variables = variables_of(symbol, arrays, image_size=size, where=f"the params file of {symbol_file}")
    _, embedding_size = parameters_of(symbol, size)
    module = MxnetGraph(symbol.to_json(), embedding_size, convention, dtype)
    faces = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    jax.eval_shape(lambda values, images: module.apply(values, images, train=False), variables, faces)
    return module, module.symbol, variables
