"""Hashes that tell results apart: by every byte, by the code behind them, and by nothing else."""

from pathlib import Path

import numpy as np
import pytest

from advcloak_jax import fingerprint


def test_an_array_is_its_shape_type_and_bytes() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    found = {
        fingerprint.of_array(one)
        for one in (array, array.reshape(3, 2, 4), array.view(np.int8), array[::-1], np.uint8(3), np.zeros((0, 4)))
    }
    assert len(found) == 6
    changed = array.copy()
    changed[1, 2, 3] += 1
    assert fingerprint.of_array(changed) not in found
    # Neither the layout in memory nor the size of the parts read at a time matters.
    assert fingerprint.of_array(np.asfortranarray(array)) == fingerprint.of_array(array)


def test_parts_of_a_large_array_are_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).normal(size=(37, 5))
    whole = fingerprint.of_array(array)
    monkeypatch.setattr(fingerprint, "_CHUNK", 100)
    assert fingerprint.of_array(array) == whole


def test_a_tree_is_its_paths_and_leaves() -> None:
    tree = {"a": {"b": np.ones(3)}, "c": np.zeros(2)}
    assert fingerprint.of_tree(tree) == fingerprint.of_tree({"c": np.zeros(2), "a": {"b": np.ones(3)}})
    assert fingerprint.of_tree(tree) != fingerprint.of_tree({"a": {"x": np.ones(3)}, "c": np.zeros(2)})
    assert fingerprint.of_value({"x": 1, "y": 2}) == fingerprint.of_value({"y": 2, "x": 1})


def test_code_is_a_module_and_all_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "advcloak_jax.top": "from advcloak_jax import middle\nimport numpy\n",
        "advcloak_jax": "",
        "advcloak_jax.middle": "from advcloak_jax.low import value\nimport advcloak_jax.top\n",
        "advcloak_jax.low": "value = 1\n",
        "advcloak_jax.apart": "value = 1\n",
    }

    def write(name: str, text: str) -> None:
        (tmp_path / name).write_text(text)
        fingerprint.of_code.cache_clear()

    for name, text in texts.items():
        write(name, text)
    monkeypatch.setattr(fingerprint, "_source", lambda name: tmp_path / name if (tmp_path / name).exists() else None)
    before = fingerprint.of_code("advcloak_jax.top")
    write("advcloak_jax.apart", "value = 2\n")
    assert fingerprint.of_code("advcloak_jax.top") == before
    write("advcloak_jax.low", "value = 2\n")
    assert fingerprint.of_code("advcloak_jax.top") != before
    fingerprint.of_code.cache_clear()


def test_the_code_of_a_method_reaches_the_projection() -> None:
    found = fingerprint._imports(fingerprint._source("advcloak_jax.cloaks.objectives").read_text())
    assert "advcloak_jax.subspace" in found
    assert fingerprint._source("advcloak_jax.subspace.project") is None
