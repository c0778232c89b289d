"""The arrays of an MXNet params file as the variables of `MxnetGraph`, strictly: nothing missing, nothing left over."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.mxnet.interpreter import run
from advcloak_jax.recognizers.mxnet.symbol import Symbol
from advcloak_jax.recognizers.mxnet.values import Parameter

FACE = (112, 112)
_SHOWN = 4


def parameters_of(symbol: Symbol, image_size: tuple[int, int] = FACE) -> tuple[dict[str, Parameter], int]:
    """Every variable of the graph for images of that (height, width), and the size of its embedding.

    Nothing is computed. Raises UserError for a graph that cannot run on such images.
    """
    found: dict[str, Parameter] = {}

    def record(name: str, parameter: Parameter) -> jax.Array:
        found[name] = parameter
        return jnp.zeros(parameter.stored_shape, jnp.float32)

    images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    # The output in MXNet's order of axes: the one after the batch's is the embedding's.
    output = jax.eval_shape(lambda values: run(symbol, values, record).plain(), images)
    return found, output.shape[1] if output.ndim > 1 else 0


def variables_of(
    symbol: Symbol, arrays: Mapping[str, np.ndarray], *, image_size: tuple[int, int] = FACE, where: str = "the file"
) -> dict[str, dict[str, np.ndarray]]:
    """Variables ("params", "batch_stats") of `MxnetGraph(symbol)`, float32, from the arrays of a params file.

    Kernels are brought to the layout they are used in. Raises UserError, which names `where`, for arrays that are
    missing, belong to nothing in the symbol, have another shape or are not finite.
    """
    parameters, _ = parameters_of(symbol, image_size)
    named = _without_prefixes(arrays, where)
    problems = [
        _listed("lacks", sorted(set(parameters) - set(named))),
        _listed("has unexpected", sorted(set(named) - set(parameters) - set(symbol.unused))),
    ]
    fitted = {name: _fitted(named[name], parameters[name]) for name in sorted(set(parameters) & set(named))}
    misshapen = (
        f"{name} {list(named[name].shape)} for {list(parameters[name].shape)}"
        for name, value in fitted.items()
        if value is None
    )
    not_finite = (name for name, value in fitted.items() if value is not None and not np.isfinite(value).all())
    problems += [_listed("has misshapen", misshapen), _listed("has values that are not finite in", not_finite)]
    if any(problems):
        raise UserError(f"{where} does not fit the MXNet symbol: it {'; it '.join(filter(None, problems))}.")
    variables: dict[str, dict[str, np.ndarray]] = {"params": {}, "batch_stats": {}}
    for name, value in fitted.items():
        if value is not None:
            variables[parameters[name].collection][name] = value
    return {collection: values for collection, values in variables.items() if values}


def _without_prefixes(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Names without "arg:" and "aux:"."""
    named: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        bare = name.removeprefix("arg:").removeprefix("aux:")
        if bare in named:
            raise UserError(f"{where} holds '{bare}' twice: the file is damaged.")
        named[bare] = array
    return named


def _fitted(array: np.ndarray, parameter: Parameter) -> np.ndarray | None:
    """The array in float32 as `parameter` is stored; None if it has another shape. One value serves every channel."""
    if array.shape == (1,) and len(parameter.shape) == 1:
        array = np.broadcast_to(array, parameter.shape)
    if array.shape != parameter.shape:
        return None
    with np.errstate(over="ignore"):  # told with what is not finite
        return np.ascontiguousarray(array.transpose(parameter.order), np.float32)


def _listed(problem: str, names: Iterable[str]) -> str:
    """`problem` with the first few names; nothing without names."""
    found = list(names)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{problem} {', '.join(found[:_SHOWN])}{more}" if found else ""
