"""Checkpoints: exact, unharmed by what comes after, the right ones kept, mismatches told."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advcloak_jax.errors import UserError
from advcloak_jax.process import _of_the_machine
from advcloak_jax.training import placement
from advcloak_jax.training.checkpoint import Checkpoints, read_checkpoint


def state(value: float = 1.0, size: int = 4) -> Any:
    """Parameters and an Adam state on both devices."""
    params = {"a": {"kernel": jnp.full((size, 3), value)}, "b": jnp.arange(5.0) * value}
    tree = {"step": jnp.int32(7), "params": params, "optimiser": optax.adam(0.1).init(params)}
    return placement.replicate(tree, jax.local_devices())


def equal(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_a_restored_state_is_the_saved_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.latest() is None
    saved = state(1 / 3)
    checkpoints.save(3, saved, 0.5)
    checkpoints.close()
    again = Checkpoints(tmp_path / "c", keep=2)
    restored = again.restore(3, state())
    again.close()
    equal(restored, saved)
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    assert all(leaf.sharding.device_set == set(jax.local_devices()) for leaf in jax.tree.leaves(restored))
    step, read = read_checkpoint(tmp_path / "c", best=True)
    assert step == 3
    equal(read["params"], saved["params"])


def test_what_is_being_saved_is_not_overwritten_by_the_next_steps(tmp_path: Path) -> None:
    """The next call is given the state's memory (donation) while the writing thread still works."""
    grow = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    big = grow(placement.replicate({"x": jnp.zeros((1 << 21,))}, jax.local_devices()))
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(1, big, 0.0)
    for _ in range(5):
        big = grow(big)
    checkpoints.close()
    _, read = read_checkpoint(tmp_path / "c", best=False)
    assert (read["x"] == 1).all()


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for step, rank in enumerate((0.1, 0.9, 0.3, 0.2, None), start=1):
        checkpoints.save(step, state(step), rank)
        checkpoints.wait()
    checkpoints.close()
    kept = sorted(int(path.name) for path in (tmp_path / "c").iterdir() if path.name.isdigit())
    assert kept == [2, 4, 5]
    for best, expected in ((True, 2), (False, 5)):
        step, read = read_checkpoint(tmp_path / "c", best=best)
        assert step == expected
        assert (read["params"]["a"]["kernel"] == expected).all()


def test_notes_are_kept_exactly(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, state(), None, {"loss": 1 / 3})
    checkpoints.save(2, state(), 0.5)
    checkpoints.close()
    again = Checkpoints(tmp_path / "c", keep=2)
    assert (again.notes(1), again.notes(2)) == ({"loss": 1 / 3}, {})
    again.close()


def test_one_without_a_rank_is_read_when_there_is_no_other(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, state(), None)
    checkpoints.close()
    assert read_checkpoint(tmp_path / "c", best=True)[0] == 1


def test_a_half_written_checkpoint_is_not_seen(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, state(), 0.0)
    checkpoints.close()
    half = tmp_path / "c" / "2.orbax-checkpoint-tmp-123"
    half.mkdir()
    (half / "default").mkdir()
    again = Checkpoints(tmp_path / "c", keep=2)
    assert again.latest() == 1
    again.close()
    assert read_checkpoint(tmp_path / "c", best=False)[0] == 1


@pytest.mark.parametrize("what", ["shape", "name"])
def test_another_networks_checkpoint_is_refused_in_a_sentence(tmp_path: Path, what: str) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, state(), 0.0)
    checkpoints.wait()
    other = state(size=8) if what == "shape" else {**state(), "params": {"c": jnp.zeros(3)}}
    with pytest.raises(UserError, match=r"c/1 was made with other settings: .* is .* there and .* by config") as raised:
        checkpoints.restore(1, other)
    assert "\n" not in str(raised.value)
    checkpoints.close()


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, state(), 0.0)
    checkpoints.close()
    for path in (tmp_path / "c" / "1").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(tmp_path / "c", best=False)
    again = Checkpoints(tmp_path / "c", keep=2)
    with pytest.raises(UserError, match="damaged"):
        again.restore(1, state())
    again.close()


def spoil(checkpoint: Path, how: str) -> None:
    """What a crash, a bad disk or a stray hand may do to a checkpoint."""
    data = max(
        (path for path in checkpoint.rglob("*") if path.parent.name == "d"), key=lambda path: path.stat().st_size
    )
    if how == "torn":
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif how == "altered":  # one bit, where only a checksum sees it
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif how == "missing":
        data.unlink()
    elif how == "metrics":
        (checkpoint / "metrics" / "metrics").write_text("{")
    elif how == "sums":
        (checkpoint / "SHA256SUMS").write_bytes(b"")
    elif how == "torn, without sums":
        (checkpoint / "SHA256SUMS").unlink()
        for path in checkpoint.rglob("*"):
            if path.is_file() and path.parent.name == "d":
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        raise AssertionError


@pytest.mark.parametrize("how", ["torn", "altered", "missing", "metrics", "sums", "torn, without sums"])
def test_a_damaged_newest_one_makes_way_for_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3)
    for step in (1, 2):
        checkpoints.save(step, state(float(step)), step, {"loss": float(step)})
    checkpoints.close()
    spoil(tmp_path / "checkpoints" / "2", how)
    again = Checkpoints(tmp_path / "checkpoints", keep=3)
    found = again.newest(state())
    assert found is not None
    assert (found.step, found.notes) == (1, {"loss": 1.0})
    equal(found.state, state(1.0))
    assert "checkpoints/2 is damaged" in caplog.text
    assert (tmp_path / "damaged" / "2").is_dir()
    # The same step can be saved again, and damaged again.
    again.save(2, state(2.0), 2)
    again.close()
    spoil(tmp_path / "checkpoints" / "2", "torn")
    third = Checkpoints(tmp_path / "checkpoints", keep=3)
    assert third.latest() == 1
    assert (tmp_path / "damaged" / "2-2").is_dir()
    third.close()


def test_when_all_are_damaged_it_is_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3)
    checkpoints.save(1, state(), 1)
    checkpoints.close()
    spoil(tmp_path / "checkpoints" / "1", "altered")
    with pytest.raises(UserError, match=r"checkpoints/1 is damaged \(default/.* does not have its checksum\); remove"):
        read_checkpoint(tmp_path / "checkpoints", best=False)
    again = Checkpoints(tmp_path / "checkpoints", keep=3)
    with pytest.raises(UserError, match=r"holds no whole checkpoint any more \(see .*damaged\); start a new --run"):
        again.newest(state())
    again.close()


def test_sums_are_as_the_usual_tool_reads_them(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    checkpoints.save(1, state(), 1)
    checkpoints.close()
    lines = (tmp_path / "c" / "1" / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1].split("/")[0] for line in lines} == {"default", "metrics"}
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "c" / "1" / name).read_bytes()).hexdigest() == digest


@pytest.mark.skipif(os.getuid() != 0 or sys.platform != "linux", reason="mounting a small disk needs root on Linux")
def test_a_full_disk_leaves_the_older_checkpoints_whole(tmp_path: Path) -> None:
    """On a disk of 2 MiB: the first state fits, the second does not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]).returncode != 0:
        pytest.skip("cannot mount a small disk here")
    try:
        noise = np.random.default_rng(0).standard_normal((300, 1000), np.float32)
        checkpoints = Checkpoints(disk / "c", keep=2)
        checkpoints.save(1, {"x": jnp.asarray(noise)}, 1)
        checkpoints.wait()
        with pytest.raises(Exception, match="No space left on device") as raised:  # noqa: PT012
            checkpoints.save(2, {"x": jnp.asarray(noise + 1)}, 2)
            checkpoints.wait()
        assert _of_the_machine(raised.value) is not None
        assert [path.name for path in (disk / "c").iterdir()] == ["1"]
        with contextlib.suppress(Exception):
            checkpoints.close()
        again = Checkpoints(disk / "c", keep=2)
        found = again.newest({"x": jnp.asarray(noise)})
        assert found is not None
        assert found.step == 1
        assert np.asarray(found.state["x"]).tobytes() == noise.tobytes()
        again.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_no_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint"):
        read_checkpoint(tmp_path / "c", best=True)
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint"):
        read_checkpoint(tmp_path / "c", best=True)


@pytest.mark.slow
def test_a_machine_with_other_devices_can_read_it(tmp_path: Path) -> None:
    """Trained on two devices, evaluated and resumed on one."""
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, state(0.5), 0.0)
    checkpoints.close()
    program = f"""
import jax, json, jax.numpy as jnp
from pathlib import Path
from advcloak_jax.training.checkpoint import Checkpoints, read_checkpoint
assert len(jax.devices()) == 1
step, state = read_checkpoint(Path({str(tmp_path / "c")!r}), best=True)
checkpoints = Checkpoints(Path({str(tmp_path / "c")!r}), keep=2)
like = jax.tree.map(jnp.asarray, state)
again = checkpoints.restore(1, like)
checkpoints.close()
print(json.dumps([state["params"]["b"].tolist(), again["params"]["b"].tolist()]))
"""
    environment = {**os.environ, "XLA_FLAGS": ""}
    root = Path(__file__).resolve().parents[1]
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, env=environment)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == [[0.0, 0.5, 1.0, 1.5, 2.0]] * 2
