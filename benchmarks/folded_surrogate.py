"""A frozen residual recogniser of the face.evoLVe layout with every batch norm folded into what is next to it.

A norm behind a convolution scales its kernel and becomes its bias. A norm before a convolution scales the kernel's
inputs; what it adds is zero in the padding, so it becomes a map, the same for every face, that is added to the result.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from advcloak_jax.networks.convolution import convolution
from advcloak_jax.recognizers.convention import Convention, prepare


def _norm(params: Any, stats: Any) -> tuple[jax.Array, jax.Array]:
    """A norm by its running statistics as x * scale + bias."""
    scale = params["scale"] * lax.rsqrt(stats["var"] + 1e-5)
    return scale, params["bias"] - stats["mean"] * scale


def fold(variables: Any, units: tuple[int, ...], side: int) -> Any:
    """What `folded_features` needs of the variables of an `IResNet` for faces of `side` x `side`."""
    params, stats = variables["params"], variables["batch_stats"]
    scale, bias = _norm(params["stem_norm"], stats["stem_norm"])
    stem = {"kernel": params["stem_conv"]["kernel"] * scale, "bias": bias, "slope": params["stem_act"]["slope"]}
    folded = []
    for index in range(sum(units)):
        own, seen = params[f"unit_{index}"], stats[f"unit_{index}"]
        scale, bias = _norm(own["norm_0"], seen["norm_0"])
        kernel = own["conv_0"]["kernel"]
        added = convolution(jnp.broadcast_to(bias, (1, side, side, len(bias))), kernel, 1, 1)
        scale_1, bias_1 = _norm(own["norm_1"], seen["norm_1"])
        unit = {"kernel_0": kernel * scale[:, None], "added": added, "slope": own["act"]["slope"]}
        unit |= {"kernel_1": own["conv_1"]["kernel"] * scale_1, "bias": bias_1}
        if "shortcut_conv" in own:
            scale, bias = _norm(own["shortcut_norm"], seen["shortcut_norm"])
            unit |= {"shortcut": own["shortcut_conv"]["kernel"][0, 0] * scale, "bias": bias_1 + bias}
        folded.append(unit)
        if index in _first_units(units):
            side = -(-side // 2)
    head, head_stats = params["head"], stats["head"]
    scale, bias = _norm(head["norm_map"], head_stats["norm_map"])
    weights = head["dense"]["kernel"].reshape(side * side, len(scale), -1)
    scale_out, bias_out = _norm(head["norm_embedding"], head_stats["norm_embedding"])
    constant = jnp.einsum("pco,c->o", weights, bias) + head["dense"]["bias"]
    dense = (weights * scale[:, None]).reshape(head["dense"]["kernel"].shape) * scale_out
    return {"stem": stem, "units": folded, "dense": dense, "bias": constant * scale_out + bias_out}


def _first_units(units: tuple[int, ...]) -> list[int]:
    """Places of the stages' first units, which have a stride of 2."""
    return [sum(units[:stage]) for stage in range(len(units))]


def folded_features(folded: Any, images: jax.Array, units: tuple[int, ...]) -> jax.Array:
    """Images [B, H, W, 3] in [0, 1] -> features [B, d], as the recogniser has them."""

    def act(x: jax.Array, slope: jax.Array) -> jax.Array:
        return jnp.where(x >= 0, x, x * slope)

    stem = folded["stem"]
    x = act(convolution(prepare(images, Convention(), jnp.float32), stem["kernel"], 1, 1) + stem["bias"], stem["slope"])
    for index, unit in enumerate(folded["units"]):
        stride = 2 if index in _first_units(units) else 1
        y = act(convolution(x, unit["kernel_0"], 1, 1) + unit["added"], unit["slope"])
        y = convolution(y, unit["kernel_1"], stride, 1) + unit["bias"]
        x = x[:, ::stride, ::stride]
        x = y + (x @ unit["shortcut"] if "shortcut" in unit else x)
    return x.reshape(len(x), -1) @ folded["dense"] + folded["bias"]
