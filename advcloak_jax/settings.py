"""Settings to JSON and back: unknown or ill-typed ones are refused by name."""

import dataclasses
import difflib
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from advcloak_jax.errors import UserError

T = TypeVar("T")

NOT_STORED = ("resume", "preset")
"""Settings of one start, not of the run."""


def to_dict(config: Any) -> dict[str, Any]:
    """JSON value of a settings dataclass, without what belongs to one start only."""
    values = dataclasses.asdict(config)
    return {name: value for name, value in values.items() if name not in NOT_STORED}


def from_dict(kind: type[T], values: dict[str, Any], where: str) -> T:
    """Settings from a JSON value. Raises UserError naming `where` and the setting that is unknown or ill-typed."""
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    arguments = {}
    for name, value in values.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
            raise UserError(f"{where} has an unknown setting {name!r}; did you mean {near[0]!r}?")
        arguments[name] = _checked(hints[name], value, f"{where}: {name}")
    try:
        return kind(**arguments)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _checked(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(typing.cast(type, hint), value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_checked(typing.get_args(hint)[0], item, where) for item in value)
    if origin in (typing.Union, types.UnionType):
        # X | None is the only kind of union here.
        (given,) = (kind for kind in typing.get_args(hint) if kind is not types.NoneType)
        return None if value is None else _checked(given, value, where)
    if origin is typing.Literal:
        if value in typing.get_args(hint):
            return value
        raise UserError(f"{where} is {value!r}; it must be one of {', '.join(map(str, typing.get_args(hint)))}.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise UserError(f"{where} is {value!r}; it must be of type {getattr(hint, '__name__', hint)}.")


def read_json(path: Path) -> Any:
    """JSON of a file. Raises UserError when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; name a folder that holds it.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not readable as JSON ({error}); restore it or start a new run.") from error
