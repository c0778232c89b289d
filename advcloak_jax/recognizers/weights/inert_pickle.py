"""PyTorch's pickles read without running anything: a class is a name, an object a record, a call one of a short list.

Python's own unpickler imports and calls what a file names. Here `pickletools` splits the file into operations and
this machine does those that make containers, tensors and inert records; it imports and calls nothing a file names.
"""

import pickletools
import sys
from typing import Any, BinaryIO, NoReturn

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.weights.records import Instance, Name, shown
from advcloak_jax.recognizers.weights.tensors import Storage, checked_storage, checked_tensor

MOST_OPERATIONS = 5_000_000

DICTS = {"collections.OrderedDict", "collections.defaultdict"}
CONTAINERS = DICTS | {"builtins.set", "builtins.list", "torch.Size"}
REBUILDERS = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
}
WITH_TYPE = "torch._tensor._rebuild_from_type_v2"
RECORDED_CALLS = {
    "_codecs.encode",
    "builtins.bytearray",
    "collections.Counter",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "torch.device",
    "torch.jit._pickle.build_boollist",
    "torch.jit._pickle.build_doublelist",
    "torch.jit._pickle.build_intlist",
    "torch.jit._pickle.build_tensorlist",
    "torch.jit._pickle.restore_type_tag",
}
"""Calls that checkpoints make for values nobody needs here: kept as a record."""
STANDARD_NAMES = {
    "argparse.Namespace",
    *(f"builtins.{name}" for name in ("bool", "bytes", "dict", "float", "frozenset", "int", "str", "tuple")),
}
"""Further names of the standard library that a file may mention, but not call."""
KNOWN = CONTAINERS | RECORDED_CALLS | STANDARD_NAMES
OLD_MODULES = {"__builtin__", "copy_reg", "commands", "cPickle"}

ARGUMENTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
"""Operations that push their argument."""
KEYS = (str, bytes, int, float, bool, type(None))


def load(stream: BinaryIO, source: str) -> tuple[Any, dict[str, Storage]]:
    """The next pickle of a stream (of bytes in memory), and the storages it names by their key.

    Raises UserError when it is damaged or asks for anything beyond containers, numbers, text, tensors and records.
    """
    machine = _Machine(source)
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MOST_OPERATIONS:
                raise ValueError("too many operations")
            machine.do(operation.name, argument)
        if len(machine.stack) != 1 or machine.outer:
            raise ValueError("a stack that is not used up")
    # What a malformed program gives: words that make no sense, an empty stack, an unknown memo, a wrong operand.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source} is damaged or of an unknown form ({shown(error)}); download it again.") from error
    return machine.stack[0], machine.storages


class _Machine:
    """A stack, the stacks below its marks, a memo, and the storages met so far."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def do(self, operation: str, argument: Any) -> None:
        """One operation. Raises UserError for one that is refused; ValueError and its like for a malformed one."""
        stack = self.stack
        if operation in ARGUMENTS:
            stack.append(argument)
            return
        match operation:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(operation == "NEWTRUE")
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(set())
            case "MARK":
                self.outer.append(stack)
                self.stack = []
            case "POP":
                if stack:
                    stack.pop()
                else:
                    self.to_mark()
            case "POP_MARK":
                self.to_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                values = [stack.pop() for _ in range(int(operation[-1]))]
                stack.append(tuple(reversed(values)))
            case "TUPLE":
                self.push(tuple(self.to_mark()))
            case "LIST":
                self.push(self.to_mark())
            case "DICT":
                self.push(_pairs(self.to_mark()))
            case "FROZENSET":
                self.push({_key(value) for value in self.to_mark()})
            case "APPEND":
                value = stack.pop()
                _extend(stack[-1], [value])
            case "APPENDS":
                values = self.to_mark()
                _extend(self.stack[-1], values)
            case "ADDITEMS":
                values = self.to_mark()
                _need(self.stack[-1], set).update(_key(value) for value in values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _items(stack[-1]).update(_pairs([key, value]))
            case "SETITEMS":
                values = self.to_mark()
                _items(self.stack[-1]).update(_pairs(values))
            case "GLOBAL":
                module, _, name = argument.partition(" ")
                stack.append(self.name(module, name))
            case "STACK_GLOBAL":
                name, module = _need(stack.pop(), str), _need(stack.pop(), str)
                stack.append(self.name(module, name))
            case "REDUCE":
                arguments, function = _need(stack.pop(), tuple), _need(stack.pop(), Name)
                stack.append(self.call(function, arguments))
            case "NEWOBJ":
                _need(stack.pop(), tuple)
                kind = _need(stack.pop(), Name)
                stack.append({} if str(kind) in DICTS else Instance(kind))
            case "BUILD":
                _build(stack.pop(), stack[-1])
            case "BINPERSID":
                stack.append(self.persistent(stack.pop()))
            case _:
                raise UserError(f"{self.source} is refused: no file of weights needs the pickle operation {operation}.")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def to_mark(self) -> list[Any]:
        """What lies above the last mark, taken off the stack."""
        values, self.stack = self.stack, self.outer.pop()
        return values

    def refuse(self, name: Name) -> NoReturn:
        raise UserError(
            f"{self.source} is refused: it asks to run {shown(name)}, which no file of weights needs. "
            "Use a file that its authors saved with torch.save(model.state_dict(), ...)."
        )

    def name(self, module: str, name: str) -> Name:
        """A name, refused when it is of Python's standard library, where no network's class can be."""
        # Python 2's name of the module.
        found = Name("builtins" if module == "__builtin__" else module, name)
        package = module.partition(".")[0]
        if str(found) not in KNOWN and (package in sys.stdlib_module_names or package in OLD_MODULES):
            self.refuse(found)
        return found

    def call(self, function: Name, arguments: tuple[Any, ...]) -> Any:
        """What a call of a known function gives. Raises UserError for any other."""
        while str(function) == WITH_TYPE:  # a tensor with attributes: (function, type, its arguments, attributes)
            function, arguments = _need(arguments[0], Name), _need(arguments[2], tuple)
        name = str(function)
        if name in REBUILDERS:
            if "_parameter" in name:
                return arguments[0]
            dtype = _need(arguments[6], Name).name if name.endswith("_v3") else ""
            storage, offset, size, stride, *_ = arguments
            return checked_tensor(storage, offset, size, stride, dtype)
        if name in CONTAINERS:
            if name == "collections.defaultdict":  # its argument is the default
                return {}
            if name == "torch.Size":
                return _need(arguments[0], tuple)
            values = _need(arguments[0], list) if arguments else []
            if name == "collections.OrderedDict":
                return _pairs([part for pair in values for part in _pair(pair)])
            return {_key(value) for value in values} if name == "builtins.set" else values
        if name in RECORDED_CALLS:
            return Instance(function)
        self.refuse(function)

    def persistent(self, label: Any) -> Any:
        """What PyTorch keeps outside of the pickle: storages, and in old files the classes with their source."""
        tag, *words = _need(label, tuple)
        if tag == "module":
            return _need(words[0], Name)
        kind, key, _, total, *view = words
        if tag != "storage" or _need(kind, Name).module.partition(".")[0] != "torch":
            raise ValueError("a reference to something that is no storage")
        storage = checked_storage(kind.name, key, total, view[0] if view else None)
        self.storages.setdefault(storage.key, storage)
        return storage


def _need(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} in place of a {kind.__name__}")
    return value


def _key(value: Any) -> Any:
    """A key that is cheap to hash: nested tuples can take for ever."""
    parts = value if type(value) is tuple else (value,)
    if not all(type(part) in KEYS or type(part) is Name for part in parts):
        raise ValueError(f"a {type(value).__name__} as a key")
    return value


def _pair(value: Any) -> Any:
    if type(value) not in (list, tuple) or len(value) != 2:
        raise ValueError("an item that is no pair")
    return value


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return {_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _items(target: Any) -> dict[Any, Any]:
    return target.items if type(target) is Instance else _need(target, dict)


def _extend(target: Any, values: list[Any]) -> None:
    if type(target) is not Instance:  # the elements of an unknown kind of list hold no state dict
        _need(target, list).extend(values)


def _build(state: Any, target: Any) -> None:
    """Attributes of an object; those of containers and tensors (metadata of a state dict) are not needed."""
    parts = state if type(state) is tuple and len(state) == 2 else (state,)  # (attributes, slots)
    for part in parts:
        if type(part) is dict and type(target) is Instance:
            target.attributes.update(part)
        elif type(part) not in (dict, type(None)) and type(target) is not Instance:
            raise ValueError("attributes that are none")
