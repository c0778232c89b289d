"""Every equation of a traced function, those of inner functions too."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def equations(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The equations of `function` at these arguments (arrays or their shapes)."""
    return list(_inside(jax.make_jaxpr(function)(*arguments).jaxpr))


def _inside(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                yield from _inside(getattr(value, "jaxpr", value))


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)
