"""The attributes of a node of an MXNet symbol: texts such as "(3, 3)", "True", "2e-05", read and checked."""

import math
import re
from typing import NamedTuple, NoReturn

from advcloak_jax.errors import UserError

_UNSET = "None"
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
# Of the training or the scheduling of the node, whatever its operator.
_HIDDEN = re.compile(r"__.*|(.*_)?(lr|wd)_mult|ctx_group|force_mirroring|mirror_stage")


class Attributes(NamedTuple):
    """Attributes of the node `name` with operator `op`. Every reader raises UserError for a value that does not fit.

    A reader's `default` stands for an attribute that is absent or "None"; without a default it must be there.
    """

    op: str
    name: str
    texts: tuple[tuple[str, str], ...]

    def text(self, key: str, default: str | None = None) -> str:
        value = dict(self.texts).get(key, _UNSET)
        if value != _UNSET:
            return value
        if default is None:
            raise UserError(f"the MXNet node '{self.name}' ({self.op}) lacks the attribute '{key}'.")
        return default

    def flag(self, key: str, default: bool) -> bool:
        value = self.text(key, str(default))
        if value.lower() not in _FLAGS:
            self.refuse(key, "True or False")
        return _FLAGS[value.lower()]

    def number(self, key: str, default: float | None = None) -> float:
        value = self.text(key, None if default is None else repr(default))
        try:
            number = float(value)
        except ValueError:
            self.refuse(key, "a number")
        if not math.isfinite(number):
            self.refuse(key, "a finite number")
        return number

    def integer(self, key: str, default: int | None = None) -> int:
        return self._integer(key, self.text(key, None if default is None else str(default)))

    def integers(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """A tuple, of any length; one bare number is a tuple of one."""
        return tuple(self._integer(key, part) for part in self._parts(key, default))

    def bounds(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int | None, ...]:
        """A tuple whose members may be None."""
        return tuple(None if part == _UNSET else self._integer(key, part) for part in self._parts(key, default))

    def choice(self, key: str, default: str | None, known: tuple[str, ...]) -> str:
        value = self.text(key, default)
        if value not in known:
            self.refuse(key, f"one of {', '.join(known)}")
        return value

    def has(self, key: str) -> bool:
        """Whether the attribute is there and not "None"."""
        return dict(self.texts).get(key, _UNSET) != _UNSET

    def unknown(self, known: frozenset[str]) -> list[str]:
        """The attributes beside the `known` ones, without those that only training reads."""
        return sorted(key for key, _ in self.texts if key not in known and not _HIDDEN.fullmatch(key))

    def refuse(self, key: str, wanted: str) -> NoReturn:
        """Raise the UserError for an attribute with a value that cannot be used."""
        value = dict(self.texts).get(key, _UNSET)
        raise UserError(f"the MXNet node '{self.name}' ({self.op}) has {key}={value!r:.80}: only {wanted} can be read.")

    def _parts(self, key: str, default: tuple[int, ...] | None) -> list[str]:
        value = self.text(key, None if default is None else str(default)).strip()
        return [part.strip() for part in value.strip("()[]").split(",") if part.strip()]

    def _integer(self, key: str, text: str) -> int:
        # Python 2 wrote long integers as 3L.
        if not re.fullmatch(r"[+-]?\d{1,12}L?", text):
            self.refuse(key, "whole numbers")
        return int(text.rstrip("L"))
