"""A published state dict into our variables: which layout it has, and every tensor accounted for."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import numpy as np

from advcloak_jax.errors import UserError
from advcloak_jax.networks.torch_weights import to_flax_layout
from advcloak_jax.recognizers.torch_names import inception_resnet, iresnet, mobilefacenet, mobilenet, vit
from advcloak_jax.recognizers.torch_names.layout import Layout, Match, Shapes
from advcloak_jax.recognizers.weights.state_dict import WRAPPERS

COUNTERS = r"(.*\.)?num_batches_tracked"
"""BatchNorm's count of batches, which evaluation does not read."""
LISTED = 5


def all_layouts() -> tuple[Layout, ...]:
    """Every published layout that is known."""
    families = (iresnet, mobilenet, mobilefacenet, inception_resnet, vit)
    return tuple(layout for family in families for layout in family.LAYOUTS)


def recognise(shapes: Shapes, *, architecture: str = "auto", layouts: Sequence[Layout]) -> tuple[Layout, Match]:
    """The one layout that a state dict has.

    shapes: of its tensors by name; architecture: the zoo's name of the network it must be, or "auto". Raises UserError
    when no layout fits, when only another architecture's does, or when several do.
    """
    fits = [(layout, match) for layout in layouts if (match := layout.recognise(shapes)) is not None]
    if architecture == "auto":
        asked, expected = fits, list(layouts)
    else:
        asked = [(layout, match) for layout, match in fits if match.architecture == architecture]
        expected = [layout for layout in layouts if architecture in layout.architectures]
        if not expected:
            known = sorted({name for layout in layouts for name in layout.architectures})
            raise UserError(
                f"no published layout of {architecture} is known; --architecture is one of {', '.join(known)}."
            )
    if len(asked) == 1:
        return asked[0]
    if asked:
        raise UserError(f"the weights fit several layouts: {_listed(asked)}. Choose one with --architecture.")
    if fits:
        others = " or ".join(f"--architecture {name}" for name in sorted({match.architecture for _, match in fits}))
        raise UserError(f"the weights are not of {architecture} but look like {_listed(fits)}; write {others}.")
    raise UserError(
        f"the weights have no known layout{'' if architecture == 'auto' else f' of {architecture}'}: looked for "
        f"{', '.join(f'{layout.example!r} ({layout.name})' for layout in expected)}; "
        f"the file has {_first(f'{name!r} {shape}' for name, shape in shapes.items())}.{_prefix_hint(shapes)}"
    )


def _listed(fits: Sequence[tuple[Layout, Match]]) -> str:
    return ", ".join(f"{match.architecture} ({layout.name})" for layout, match in fits)


def _prefix_hint(shapes: Shapes) -> str:
    """What to write when the network is a part of what was saved (beside a classifier, for one)."""
    parts = Counter(name.partition(".")[0] for name in shapes)
    for wrapper in WRAPPERS:
        if wrapper in parts:
            return f" Write --key {wrapper} for the {parts[wrapper]} tensors below '{wrapper}'."
    return ""


def _first(words: Iterable[str]) -> str:
    words = list(words)
    rest = f" and {len(words) - LISTED} more" if len(words) > LISTED else ""
    return ", ".join(words[:LISTED]) + rest


def convert(template: Mapping[str, Any], state: Mapping[str, np.ndarray], match: Match) -> dict[str, Any]:
    """Variables shaped like `template`, filled from `state`, with no tensor left over on either side.

    template: Flax variables or their shapes (`jax.eval_shape` of `init`); state: tensors by PyTorch's names; match:
    what `recognise` found. Only `match.ignored` and BatchNorm's counters may be left unused. Raises UserError that
    lists all that is missing, not expected, of another shape, or not finite.
    """
    filled: dict[tuple[str, ...], np.ndarray] = {}
    missing, misshapen, infinite = [], [], []
    used = set()
    for path, leaf in flax.traverse_util.flatten_dict(dict(template)).items():
        layer = match.layers["/".join(path[1:-1])]
        name = layer.tensor(path[-1])
        used.add(name)
        needed = tuple(leaf.shape)
        if name not in state:
            missing.append(f"{name!r} (needed {needed})")
            continue
        tensor = np.asarray(state[name], np.float32)
        value = _in_flax_layout(tensor, layer.kind, match.spatial)
        if value is None or value.shape != needed:
            read_as = "a flattened map" if value is None else f"{value.shape} in Flax's layout"
            misshapen.append(f"{name!r} {tensor.shape} (read as {read_as}, needed {needed})")
        elif not np.isfinite(value).all():
            infinite.append(f"{name!r} ({np.count_nonzero(~np.isfinite(value))} of {value.size} values)")
        else:
            filled[path] = np.ascontiguousarray(value)
    unused = (COUNTERS, *match.ignored)
    unexpected = [
        f"{name!r} {tuple(tensor.shape)}"
        for name, tensor in state.items()
        if name not in used and not any(re.fullmatch(pattern, name) for pattern in unused)
    ]
    faults = {"missing": missing, "not expected": unexpected, "of another shape": misshapen, "not finite": infinite}
    told = [f"{fault} ({len(names)}): {_first(names)}" for fault, names in faults.items() if names]
    if told:
        raise UserError(
            f"the weights do not fit {match.architecture} {match.fields}; tensors {'; '.join(told)}. "
            "Choose the --architecture they belong to, or get an undamaged file."
        )
    return flax.traverse_util.unflatten_dict(filled)


def _in_flax_layout(tensor: np.ndarray, kind: str, spatial: tuple[int, int]) -> np.ndarray | None:
    """`to_flax_layout`, or None for a dense layer that cannot read a flattened map of that size."""
    if kind == "flattened" and tensor.ndim == 2 and tensor.shape[1] % (spatial[0] * spatial[1]):
        return None
    return to_flax_layout(tensor, kind, spatial)
