"""Settings to JSON and back: unknown or ill-typed ones are refused by name."""

import dataclasses
import difflib
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from advcloak_jax.config.cluster import STARTING
from advcloak_jax.errors import UserError

T = TypeVar("T")

NOT_STORED = ("resume", "preset", "sweep", "sweep_index", "sweep_list", "profile", "wandb", *STARTING)
"""Settings of one start, not of the run."""


def to_dict(config: Any) -> dict[str, Any]:
    """JSON value of a settings dataclass, without what belongs to one start only."""
    values = dataclasses.asdict(config)
    return {name: value for name, value in values.items() if name not in NOT_STORED}


def from_dict(kind: type[T], values: dict[str, Any], where: str, base: T | None = None) -> T:
    """Settings from a JSON value; what it leaves out is as in `base`, or the default.

    Raises UserError naming `where` and the setting that is unknown or ill-typed.
    """
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    arguments = {} if base is None else {name: getattr(base, name) for name in names}
    for name, value in values.items():
        if name not in names:
            raise UserError(f"{where} has an unknown setting {name!r}; did you mean {nearest(name, names)!r}?")
        arguments[name] = _checked(hints[name], value, f"{where}: {name}", arguments.get(name))
    try:
        return kind(**arguments)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def nearest(name: str, names: list[str]) -> str:
    """Which of `names` was most likely meant: the one that `name` abbreviates by its initials, or the most similar."""
    initials = {"".join(word[0] for word in known.split("_")): known for known in reversed(names)}
    return initials.get(name) or difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)[0]


def from_text(kind: type, name: str, text: str) -> Any:
    """JSON value that `text` stands for in the setting `name` ("split.protected": in its part) of a settings class.

    What is not of the setting's type stays text, and `from_dict` refuses it.
    """
    first, _, rest = name.partition(".")
    hint = typing.get_type_hints(kind).get(first)
    if rest and dataclasses.is_dataclass(hint):
        return {rest: from_text(typing.cast(type, hint), rest, text)}
    if hint is str or typing.get_origin(hint) is typing.Literal:
        return text
    if typing.get_origin(hint) is tuple:
        return [text]
    try:
        return json.loads({"none": "null"}.get(text.lower(), text))
    except json.JSONDecodeError:
        return text


def _checked(hint: Any, value: Any, where: str, base: Any = None) -> Any:
    """`value` as `hint` has it; parts of a settings class that it leaves out are those of `base`."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(typing.cast(type, hint), value, where, base)
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
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; name a folder that holds it.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable as JSON ({error}); restore it or start a new run.") from error
