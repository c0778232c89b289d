"""What is kept is taken again, and only that."""

from pathlib import Path

import numpy as np
import pytest

from advcloak_jax.evaluation.store import Store


class Maker:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_second_asking_computes_nothing(tmp_path: Path) -> None:
    make = Maker()
    for _ in range(2):
        store = Store(tmp_path)
        np.testing.assert_array_equal(store.array("masks", "a", {"norm": 1, "seed": 2}, make), make())
        make.calls -= 1
    assert make.calls == 1
    assert store.account() == {"masks": {"computed": [], "taken": ["a"]}}
    assert "0 computed, 1 taken" in store.summary()


def test_any_change_of_the_key_or_the_kind_computes_anew(tmp_path: Path) -> None:
    make, store = Maker(), Store(tmp_path)
    for kind, key in (("masks", {"x": 1}), ("masks", {"x": 2}), ("masks", {"y": 1}), ("embeddings", {"x": 1})):
        store.array(kind, "a", key, make)
    assert make.calls == 4


def test_a_damaged_file_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make = Maker()
    Store(tmp_path).array("masks", "a", {"x": 1}, make)
    (path,) = (tmp_path / "masks").iterdir()
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    found = Store(tmp_path).array("masks", "a", {"x": 1}, make)
    assert make.calls == 2
    assert "is damaged" in caplog.text
    np.testing.assert_array_equal(found, make())


def test_what_cannot_be_told_is_never_kept(tmp_path: Path) -> None:
    make = Maker()
    for store, key in ((Store(tmp_path), None), (Store(None), {"x": 1})):
        for _ in range(2):
            store.array("embeddings", "a", key, make)
        assert store.account()["embeddings"] == {"computed": ["a"], "taken": []}
    assert make.calls == 4
    assert list(tmp_path.iterdir()) == []
