"""Published weights from a file: PyTorch's formats and safetensors, told apart by their content."""

from pathlib import Path

import numpy as np

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.weights.pytorch_file import is_legacy, read_legacy, read_zip
from advcloak_jax.recognizers.weights.safetensors_file import is_safetensors, read_safetensors

MOST_BYTES = 8 * 2**30
ARCHIVE = "is an archive; unpack it and give the file of weights in it"
WRONG_CONTENT = (
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the weights; run `git lfs pull` where it comes from"),
    (0, b"\x1f\x8b", ARCHIVE),
    (0, b"7z\xbc\xaf", ARCHIVE),
    (0, b"Rar!", ARCHIVE),
    (257, b"ustar", ARCHIVE + " (or, from PyTorch 0.1, save it again with a newer PyTorch)"),
    (0, b"\x89HDF", "is an HDF5 file (Keras); give PyTorch weights or .safetensors"),
    (0, b"\x93NUMPY", "is a NumPy array; give PyTorch weights or .safetensors"),
)
"""Offset, bytes and what a file is that has them there."""


def read_weights(path: Path, key: str = "") -> dict[str, np.ndarray]:
    """Every tensor of a published state dict by its name, without running anything the file asks for.

    path: a .pth, .pt, .ckpt, .tar (PyTorch 0.2 or newer; state dict, checkpoint, whole module or TorchScript) or
    .safetensors file, told apart by content. key: where the state dict is in a checkpoint that holds several, or a
    prefix of names. Floats become float32, integers stay; prefixes such as "module." that all names share are dropped.
    Raises UserError when the file is missing, damaged, of another kind, asks to run code, or leaves a choice.
    """
    if path.suffix == ".params" or path.name.endswith("-symbol.json"):
        raise UserError(
            f"{path} is one of MXNet's two files, not a state dict; "
            "import NAME-0000.params with NAME-symbol.json beside it and without --architecture."
        )
    if path.suffix == ".onnx":
        raise UserError(f"{path} is an ONNX network; name it as a target (--targets {path}), there is no import.")
    data = _content(path)
    source = str(path)
    if data[:4] == b"PK\x03\x04":
        return read_zip(data, source, key)
    if is_legacy(data):
        return read_legacy(data, source, key)
    if path.suffix == ".safetensors" or is_safetensors(data):
        return read_safetensors(data, source, key)
    if data[:1] == b"\x80":
        raise UserError(f"{path} is a pickle, but not one that torch.save wrote; save its state dict with torch.save.")
    raise UserError(f"{path} is no file of weights; give PyTorch's .pth, .pt, .ckpt or .tar, or .safetensors.")


def _content(path: Path) -> bytes:
    """The file's bytes. Raises UserError when there are none, too many, or those of another kind of file."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise UserError(f"{path} has {size:,} bytes, too many for a recogniser's weights.")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name the file of published weights.") from error
    if not data:
        raise UserError(f"{path} is empty; download it again.")
    if data[:1024].lstrip().startswith(b"<"):
        raise UserError(
            f"{path} is a web page, not the weights; download the file itself (its 'raw' or download link)."
        )
    for offset, words, meaning in WRONG_CONTENT:
        if data[offset : offset + len(words)] == words:
            raise UserError(f"{path} {meaning}.")
    return data
