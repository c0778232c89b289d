"""Lists of byte strings out of a pickle, without unpickling: nothing that the file names is imported or called.

`pickle.load` runs what a file asks for. Here the file's opcodes, as `pickletools` lists them, are followed by a small
machine of our own that knows containers, bytes, text, numbers, truth values, and what numpy writes for arrays of uint8
and of bool. The few names that this needs are recognised as text; every other one is refused.
"""

import io
import pickletools
import re
from typing import Any

import numpy as np

_NAMES = {
    "_codecs.encode": "encode",
    "numpy.dtype": "dtype",
    "numpy.ndarray": "ndarray",
    "numpy.core.multiarray._reconstruct": "reconstruct",
    "numpy._core.multiarray._reconstruct": "reconstruct",
    "numpy.core.multiarray.scalar": "scalar",
    "numpy._core.multiarray.scalar": "scalar",
    "numpy.core.numeric._frombuffer": "frombuffer",
    "numpy._core.numeric._frombuffer": "frombuffer",
}
"""What bytes (Python 2's protocols) and numpy arrays are written with, by module and name."""

_DTYPES = {"u1": np.dtype(np.uint8), "b1": np.dtype(np.bool_)}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
"""Opcodes that push their argument."""


class RefusedPickleError(Exception):
    """The pickle holds something else than plain data, or is damaged; the message is the rest of a sentence."""


class _Name:
    """Something that the file names. It is a word here, never the thing."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Dtype:
    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype


class _Array:
    """An array to be, as numpy's pickles first name it and then fill it."""

    def __init__(self, values: np.ndarray | None = None) -> None:
        self.values = values


def read_two_lists(data: bytes) -> tuple[Any, Any]:
    """The two lists (or arrays) that a pickle holds, of None, bool, int, bytes, str and arrays of uint8 or bool.

    Strings of Python 2 are bytes. What the items are is not checked. Raises RefusedPickleError for names that ask to
    run code, for objects, and for a damaged file.
    """
    machine = _Machine(len(data))
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            machine.step(opcode.name, argument)
        (result,) = machine.stack
    except RefusedPickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        # genops answers a cut or damaged stream with ValueError; the others come from a stack that does not fit.
        raise RefusedPickleError("is cut off or damaged") from error
    if type(result) not in (list, tuple) or len(result) != 2:
        raise RefusedPickleError("holds something else than two lists")
    return _finished(result[0]), _finished(result[1])


class _Machine:
    """A stack, the stacks below its marks, and a memory. `budget`: bytes that text may yet be turned into."""

    def __init__(self, budget: int) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.budget = budget

    def step(self, opcode: str, argument: Any) -> None:
        """Follow one opcode. Raises RefusedPickleError for those that plain data does not need."""
        stack = self.stack
        if opcode in _LITERALS:
            stack.append(argument)
            return
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode == "NEWTRUE")
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":  # Python 2's bytes
                stack.append(argument.encode("latin1"))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "MARK":
                self.outer.append(stack)
                self.stack = []
            case "LIST":
                items = self.to_mark()
                self.stack.append(items)
            case "TUPLE":
                items = self.to_mark()
                self.stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode[-1]))]
                stack.append(tuple(reversed(items)))
            case "APPEND":
                item = stack.pop()
                _checked(stack[-1], list).append(item)
            case "APPENDS":
                items = self.to_mark()
                _checked(self.stack[-1], list).extend(items)
            case "POP":
                stack.pop()
            case "POP_MARK":
                self.to_mark()
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL" | "INST":  # pickletools joins module and name by a space
                stack.append(_name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_name(module, name))
            case "REDUCE":
                arguments, called = _checked(stack.pop(), tuple), _checked(stack.pop(), _Name)
                stack.append(self.call(called.name, arguments))
            case "BUILD":
                state = _checked(stack.pop(), tuple)
                _fill(stack[-1], state)
            case _:
                raise RefusedPickleError(f"holds objects ({opcode}) where only lists, bytes and truth values belong")

    def to_mark(self) -> list[Any]:
        """What lies above the last mark, taken off the stack."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """What a call of a known name would give, made here. Raises RefusedPickleError for other arrays than these."""
        match name:
            case "encode":
                return self.encode(*arguments)
            case "dtype":
                return _dtype(*arguments)
            case "reconstruct":
                return _Array()
            case "scalar":
                dtype, buffer = arguments
                return _array(buffer, dtype, 1).item()
            case "frombuffer":
                buffer, dtype, shape, _ = arguments
                return _Array(_array(buffer, dtype, shape))
            case _:
                raise TypeError("a name that is never called")

    def encode(self, text: str, coding: Any) -> bytes:
        """Bytes as Python 3 writes them in Python 2's protocols."""
        if _text(coding) not in ("latin1", "latin-1"):
            raise RefusedPickleError(f"has bytes in the coding {_shown(_text(coding))}")
        self.budget -= len(text)
        if self.budget < 0:  # one text, converted over and over: a small file that fills the memory
            raise RefusedPickleError("unfolds to more bytes than it has")
        return text.encode("latin1")


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} in place of a {kind.__name__}")
    return value


def _name(module: Any, name: Any) -> _Name:
    """A name, refused where it is not one of the known."""
    full = f"{_text(module)}.{_text(name)}"
    if full not in _NAMES:
        raise RefusedPickleError(f"refers to {_shown(full)}, that is, asks to run code")
    return _Name(_NAMES[full])


def _fill(target: Any, state: tuple[Any, ...]) -> None:
    """Fill an array, or see that a dtype has no parts."""
    if type(target) is _Array and target.values is None:
        _, shape, dtype, _, buffer = state
        target.values = _array(buffer, dtype, shape)
    elif type(target) is not _Dtype or state[2:5] != (None, None, None):
        raise RefusedPickleError("sets the state of something that is no array of bytes")


def _array(buffer: Any, dtype: Any, shape: Any) -> np.ndarray:
    if not isinstance(buffer, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise RefusedPickleError("holds an array of other things than bytes")
    return np.frombuffer(buffer, dtype.dtype).reshape(shape)


def _dtype(code: Any, *flags: Any) -> _Dtype:
    if _text(code) not in _DTYPES:
        raise RefusedPickleError(f"holds an array of type {_shown(_text(code))} where only bytes and bools belong")
    return _Dtype(_DTYPES[_text(code)])


def _finished(value: Any) -> list[Any] | np.ndarray:
    """One of the two lists, with its arrays as arrays."""

    def array(item: _Array) -> np.ndarray:
        if item.values is None:
            raise RefusedPickleError("names an array and does not say what is in it")
        return item.values

    if type(value) is _Array:
        return array(value)
    if type(value) not in (list, tuple):
        raise RefusedPickleError("holds something else than two lists")
    return [array(item) if type(item) is _Array else item for item in value]


def _text(value: Any) -> str:
    """A name, which Python 2 writes as bytes."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    if not isinstance(value, str):
        raise TypeError("no name")
    return value


def _shown(name: str) -> str:
    """A name out of a file, short and printable."""
    return re.sub(r"[^\w.\-<>|]", "?", name)[:80]
