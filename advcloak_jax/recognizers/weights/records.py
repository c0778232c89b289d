"""What a file of weights says beside its tensors, kept as words: names, and objects that are never made."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Name:
    """A class or function that a file names; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Instance:
    """What would be an object of class `kind`: its attributes, and its items where it is a dict."""

    kind: Name
    attributes: dict[Any, Any] = field(default_factory=dict)
    items: dict[Any, Any] = field(default_factory=dict)


def shown(text: object) -> str:
    """A file's own words, quoted for a message: short, on one line."""
    words = ascii(str(text)[:80])
    return words if len(str(text)) <= 80 else words + "..."
