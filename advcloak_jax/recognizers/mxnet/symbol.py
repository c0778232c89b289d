"""MXNet's graph of operators (NAME-symbol.json), read and checked: nothing that could not be run gets past here."""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.mxnet.attributes import Attributes
from advcloak_jax.recognizers.mxnet.operators import OPERATORS

VARIABLE = "null"
INPUT = "data"
# What InsightFace calls its embedding.
_EMBEDDING = "fc1"
# Heads that are a loss, not an embedding.
_LOSSES = ("Output", "Loss", "BlockGrad", "softmax", "stop_gradient")
# The layers that could give an embedding, to propose.
_CANDIDATES = ("FullyConnected", "BatchNorm", "L2Normalization", "Flatten")
# Statistics that symbols from before MXNet 0.9 leave to the reader.
_IMPLIED = {"BatchNorm": ("moving_mean", "moving_var"), "BatchNorm_v1": ("moving_mean", "moving_var")}


class Node(NamedTuple):
    """A variable (op "null") or an operator on the outputs (node, output number) of earlier nodes."""

    attributes: Attributes
    inputs: tuple[tuple[int, int], ...] = ()

    @property
    def op(self) -> str:
        return self.attributes.op

    @property
    def name(self) -> str:
        return self.attributes.name


class Symbol(NamedTuple):
    """The nodes that one output depends on, each after its inputs.

    output: (node, output number); unused: the variables of the file that the output does not depend on.
    """

    nodes: tuple[Node, ...]
    output: tuple[int, int]
    unused: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The symbol as text that `parse_symbol` reads, its output the only head; without what it does not need."""
        nodes = [
            {
                "op": node.op,
                "name": node.name,
                "attrs": dict(node.attributes.texts),
                "inputs": [[*source, 0] for source in node.inputs],
            }
            for node in self.nodes
        ]
        return json.dumps({"nodes": nodes, "heads": [[*self.output, 0]]}, indent=1)


def read_symbol(path: Path, output: str | None = None) -> Symbol:
    """`parse_symbol` of a file. Raises UserError for one that cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as an MXNet symbol: {error}.") from error
    return parse_symbol(text, str(path), output)


@functools.lru_cache(maxsize=16)
def parse_symbol(text: str, where: str, output: str | None = None) -> Symbol:
    """The part of the JSON symbol `text` that makes the embedding.

    output: the name of the node that gives it. None: the only head, or where there are several or it is a loss, "fc1".
    Raises UserError, which names `where`, for a text that is no symbol, operators or attributes that cannot be run on
    the way to the output, and an output that is not there.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no MXNet symbol: it cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("nodes"), list) or not content["nodes"]:
        raise UserError(f"{where} is no MXNet symbol: it should hold a JSON object with a list of 'nodes'.")
    nodes: list[Node] = []
    renumbered: dict[int, int] = {}  # the file's number to ours: implied variables come in between
    for number, record in enumerate(content["nodes"]):
        node = _node(record, number, renumbered, where)
        if node.op in _IMPLIED and len(node.inputs) == 3:
            for name in _IMPLIED[node.op]:
                node = node._replace(inputs=(*node.inputs, (len(nodes), 0)))
                nodes.append(Node(Attributes(VARIABLE, f"{node.name}_{name}", ())))
        renumbered[number] = len(nodes)
        nodes.append(node)
    names = [node.name for node in nodes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{where} has two nodes called '{twice[0]}': export the symbol with names of their own.")
    heads = [_entry(head, renumbered, f"the heads of {where}") for head in _list(content, "heads", where)]
    symbol = _needed(nodes, _output(nodes, heads, output, where))
    for node in symbol.nodes:
        _check(node, where)
    if INPUT not in {node.name for node in symbol.nodes if node.op == VARIABLE}:
        raise UserError(f"{where} reads no input called '{INPUT}': export the symbol with that name.")
    return symbol


def _list(record: dict[str, Any], key: str, what: str) -> list[Any]:
    value = record.get(key)
    if not isinstance(value, list):
        raise UserError(f"{what} has no list '{key}': it is no MXNet symbol, or damaged.")
    return value


def _node(record: Any, number: int, renumbered: dict[int, int], where: str) -> Node:
    what = f"node {number} of {where}"
    if not isinstance(record, dict):
        raise UserError(f"{what} is no JSON object: it is no MXNet symbol, or damaged.")
    op, name = record.get("op"), record.get("name")
    if not isinstance(op, str) or not isinstance(name, str) or not name:
        raise UserError(f"{what} has no 'op' and 'name': it is no MXNet symbol, or damaged.")
    texts: dict[str, str] = {}
    for key in ("attr", "attrs", "param"):  # the name depends on the version; the oldest have both attr and param
        attributes = record.get(key, {})
        if not isinstance(attributes, dict) or not all(isinstance(value, str) for value in attributes.values()):
            raise UserError(f"{what} has '{key}' that are no texts: it is no MXNet symbol, or damaged.")
        texts |= attributes
    inputs = tuple(_entry(entry, renumbered, what) for entry in _list(record, "inputs", what))
    return Node(Attributes(op, name, tuple(sorted(texts.items()))), inputs)


def _entry(entry: Any, renumbered: dict[int, int], what: str) -> tuple[int, int]:
    """[node, output number, version] (the version may be missing) in our numbers."""
    is_entry = isinstance(entry, list) and len(entry) in (2, 3) and all(type(part) is int for part in entry)
    if not is_entry or entry[0] not in renumbered or not 0 <= entry[1] < 2**16:
        raise UserError(f"{what} refers to {entry!r:.60}, which is no output of an earlier node.")
    return renumbered[entry[0]], entry[1]


def _output(nodes: list[Node], heads: list[tuple[int, int]], wanted: str | None, where: str) -> tuple[int, int]:
    """The output that is the embedding."""
    by_name = {node.name: number for number, node in enumerate(nodes) if node.op != VARIABLE}
    if wanted is not None:
        for name in (wanted, wanted.removesuffix("_output")):
            if name in by_name:
                return by_name[name], 0
    else:
        if len(heads) == 1 and not any(loss in nodes[heads[0][0]].op for loss in _LOSSES):
            return heads[0]
        if _EMBEDDING in by_name:
            return by_name[_EMBEDDING], 0
    candidates = [name for name, number in by_name.items() if nodes[number].op in _CANDIDATES] or list(by_name)
    problem = "does not tell its embedding" if wanted is None else f"has no layer '{wanted}'"
    raise UserError(f"{where} {problem}: name the layer that gives it, such as {', '.join(candidates[-6:]) or 'none'}.")


def _needed(nodes: list[Node], output: tuple[int, int]) -> Symbol:
    """The symbol of `output` alone."""
    needed = {output[0]}
    for number in range(output[0], -1, -1):
        if number in needed:
            needed.update(source for source, _ in nodes[number].inputs)
    ours = {number: i for i, number in enumerate(sorted(needed))}
    kept = tuple(
        nodes[number]._replace(inputs=tuple((ours[source], part) for source, part in nodes[number].inputs))
        for number in sorted(needed)
    )
    unused = tuple(node.name for number, node in enumerate(nodes) if number not in needed and node.op == VARIABLE)
    return Symbol(kept, (ours[output[0]], output[1]), unused)


def _check(node: Node, where: str) -> None:
    """UserError for a node that cannot be run."""
    if node.op == VARIABLE:
        if node.inputs:
            raise UserError(f"the variable '{node.name}' of {where} has inputs: it is no MXNet symbol, or damaged.")
        return
    if node.op not in OPERATORS:
        raise UserError(
            f"the node '{node.name}' of {where} is a '{node.op}', which cannot be run here: "
            "convert the model to ONNX, which serves as a target."
        )
    unknown = node.attributes.unknown(OPERATORS[node.op].attributes)
    if unknown:
        raise UserError(
            f"the node '{node.name}' ({node.op}) of {where} has the attribute '{unknown[0]}', not known here."
        )
    if not node.inputs:
        raise UserError(f"the node '{node.name}' ({node.op}) of {where} has no inputs: it is damaged.")
