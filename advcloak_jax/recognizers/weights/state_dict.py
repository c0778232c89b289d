"""The one state dict within what a file holds: nested dictionaries, checkpoints, whole modules."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.weights.records import Instance, shown
from advcloak_jax.recognizers.weights.tensors import Tensor

T = TypeVar("T", Tensor, np.ndarray)

WRAPPERS = ("module", "_orig_mod", "model", "backbone", "net", "network")
"""What training code puts before every name: DataParallel, torch.compile, a network as a part of another."""
MOST_NESTED = 16
MOST_MODULES = 100_000


def find(tree: Any, kind: type[T], source: str, key: str = "") -> dict[str, T]:
    """The tensors (of type `kind`) of the state dict in `tree`, by name, less the wrappers all of them share.

    key: where it is ("state_dict", "student.backbone"), or what its tensors' names begin with; "" if there is but one.
    Raises UserError when there is none or more than one.
    """
    try:
        found = dict(_candidates(tree, kind, (), set())) if isinstance(tree, dict | Instance) else {}
    except RecursionError as error:
        raise UserError(f"{source} is refused: its parts are nested without end.") from error
    if not found:
        raise UserError(
            f"{source} holds no tensors by name. Save a state dict: torch.save(model.state_dict(), 'weights.pt'); "
            "of a TorchScript file: torch.save(torch.jit.load(file).state_dict(), 'weights.pt')."
        )
    if key:
        found = _below(found, key, source)
    if len(found) > 1:
        listed = ", ".join(f"{shown(path)} ({len(tensors)} tensors)" for path, tensors in found.items())
        raise UserError(f"{source} holds several sets of tensors: {listed}. Choose one with --key.")
    (tensors,) = found.values()
    return _unwrapped(tensors)


def _candidates(
    node: dict[Any, Any] | Instance, kind: type[T], path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[str, dict[str, T]]]:
    """The state dicts in a tree: modules, and dicts mostly of tensors that hold no other state dict."""
    if id(node) in seen:
        return
    if len(path) > MOST_NESTED:
        raise RecursionError
    seen.add(id(node))
    if isinstance(node, Instance):
        tensors = dict(_of_module(node, kind))
        if tensors:
            yield ".".join(path), tensors
        node = node.items
    within = False
    for name, child in node.items():
        if isinstance(name, str) and isinstance(child, dict | Instance):
            for candidate in _candidates(child, kind, (*path, name), seen):
                within = True
                yield candidate
    own = {name: value for name, value in node.items() if isinstance(name, str) and isinstance(value, kind)}
    # Checkpoints hold a step or a score as tensors, too.
    if not within and 2 * len(own) > len(node) and any(tensor.ndim for tensor in own.values()):
        yield ".".join(path), own


def _of_module(module: Instance, kind: type[T]) -> Iterator[tuple[str, T]]:
    """What `state_dict()` of a pickled torch.nn.Module, or of a TorchScript module, would give."""
    pending = [("", module)]
    for _ in range(MOST_MODULES):
        if not pending:
            return
        prefix, current = pending.pop()
        parts = [current.attributes]  # TorchScript: tensors and modules are plain attributes
        if "_modules" in current.attributes:
            hidden = current.attributes.get("_non_persistent_buffers_set")
            buffers = _dict(current.attributes.get("_buffers"))
            kept = {name: value for name, value in buffers.items() if not (isinstance(hidden, set) and name in hidden)}
            parts = [_dict(current.attributes.get("_parameters")), kept, _dict(current.attributes["_modules"])]
        inner = []
        for name, value in (item for part in parts for item in part.items()):
            if isinstance(name, str) and isinstance(value, kind):
                yield prefix + name, value
            elif isinstance(name, str) and isinstance(value, Instance):
                if prefix.count(".") > MOST_NESTED:
                    raise RecursionError
                inner.append((f"{prefix}{name}.", value))
        pending += reversed(inner)
    raise RecursionError


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _below(found: Mapping[str, dict[str, T]], key: str, source: str) -> dict[str, dict[str, T]]:
    """The tensors under `key`, an absolute place or, if it is none, a prefix of names."""
    for absolute in (True, False):
        chosen: dict[str, dict[str, T]] = {}
        for path, tensors in found.items():
            start = f"{path}." if absolute and path else ""
            names = {start + name: value for name, value in tensors.items()}
            below = {name[len(key) + 1 :]: value for name, value in names.items() if name.startswith(f"{key}.")}
            if below:
                chosen[path] = below
        if chosen:
            return chosen
    places = [path for path in found if path] or sorted({name.partition(".")[0] for name in found[""]})
    listed = ", ".join(shown(place) for place in places[:8])
    raise UserError(f"{source} has no tensors under --key {key}; it has {listed}.")


def _unwrapped(tensors: dict[str, T]) -> dict[str, T]:
    for _ in range(MOST_NESTED):
        first = {name.partition(".")[0] for name in tensors}
        if len(first) != 1 or not first.issubset(WRAPPERS) or not all("." in name for name in tensors):
            break
        tensors = {name.partition(".")[2]: value for name, value in tensors.items()}
    return tensors
