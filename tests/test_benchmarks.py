"""The benchmarks count right, run from end to end, and compare like with like."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from advcloak_jax.errors import UserError
from advcloak_jax.networks.convolution import convolution
from advcloak_jax.networks.generator import Generator
from benchmarks import __main__ as command
from benchmarks import (
    candidate_counts,
    candidate_layers,
    candidates,
    collectives,
    counts,
    folded_surrogate,
    hardware,
    masks,
    processes,
    recognisers,
    workloads,
)
from benchmarks.sizes import SIZES, STAGE_ONE

ROOT = Path(__file__).parents[1]


def test_closed_forms_are_the_published_figures() -> None:
    full = SIZES["full"]
    assert counts.macs(counts.generator_layers(full)) / 1e9 == pytest.approx(4.65, abs=0.01)
    assert counts.macs(counts.surrogate_layers(full)) / 1e9 == pytest.approx(6.3, abs=0.02)
    assert counts.macs(counts.discriminator_layers(full)) / 1e9 == pytest.approx(0.1, abs=0.01)
    assert counts.step_flop(full) / 2e9 == pytest.approx(27, abs=0.5)


@pytest.mark.parametrize(
    ("stride", "padding", "spread", "kernel_spread", "groups"),
    [(1, (3, 3), 1, 1, 1), (2, (1, 1), 1, 1, 1), (1, (2, 0), 2, 1, 1), (1, (0, 0), 1, 2, 2)],
)
def test_a_convolutions_count_is_xlas(
    stride: int, padding: tuple[int, int], spread: int, kernel_spread: int, groups: int
) -> None:
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [padding] * 2,
            lhs_dilation=(spread,) * 2,
            rhs_dilation=(kernel_spread,) * 2,
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    x, kernel = jnp.zeros((2, 9, 10, 4)), jnp.zeros((3, 3, 4 // groups, 6))
    found = counts.traced(convolve, x, kernel)
    # XLA's count of the lowered program: the optimised one may have become something else.
    assert found.flop == jax.jit(convolve).lower(x, kernel).cost_analysis()["flops"]
    assert found.bytes == 4 * (x.size + kernel.size + convolve(x, kernel).size)


def test_a_networks_count_is_its_closed_form_and_xlas() -> None:
    """But for the padding, which the closed form counts, and for what is neither convolution nor product."""
    size = SIZES["quick"]
    generator, faces = Generator(size.generator), jnp.zeros((2, size.image, size.image, 3))
    variables = jax.eval_shape(lambda key: generator.init(key, faces, train=False), jax.random.key(0))
    call = lambda variables, faces: generator.apply(variables, faces, train=False)  # noqa: E731
    found = counts.traced(call, variables, faces).flop / 2
    closed = 2 * counts.macs(counts.generator_layers(size))
    assert 0.9 * closed < found < 1.15 * closed
    assert found * 2 == pytest.approx(jax.jit(call).lower(variables, faces).cost_analysis()["flops"], rel=0.15)


def test_loops_and_branches_count_as_often_as_they_run() -> None:
    square = jnp.zeros((4, 4))
    looped = counts.traced(lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=5)[0], square)
    assert looped.flop == 5 * 2 * 4**3
    branch = counts.traced(lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y, x), square)
    assert branch.flop == 2 * 2 * 4**3


def test_a_gradient_that_nobody_asks_for_does_not_count() -> None:
    """`convolution` makes its input's and its kernel's gradient; the surrogate's kernels have none."""
    x, kernel = jnp.zeros((1, 8, 8, 8)), jnp.zeros((3, 3, 8, 8))
    forward = counts.traced(lambda x: convolution(x, kernel, 1, 1), x).flop
    by_input = jax.grad(lambda x: jnp.sum(jnp.square(convolution(x, kernel, 1, 1))))
    assert counts.traced(jax.jit(by_input), x).flop == 2 * forward


def test_bytes_of_a_known_exchange() -> None:
    devices = jax.local_devices()[:2]

    def exchange(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.psum(x, "d"), jax.lax.all_gather(y, "d")

    mapped = jax.shard_map(
        exchange, mesh=Mesh(np.array(devices), ("d",)), in_specs=P("d"), out_specs=P(), check_vma=False
    )
    program = jax.jit(mapped).lower(jnp.zeros((6, 5)), jnp.zeros((2, 7), jnp.bfloat16)).compile().as_text()
    found = collectives.exchanged(program)
    assert found["all-reduce"] == collectives.Exchange(1, 3 * 5 * 4)
    assert found["all-gather"].operations == 1
    assert found["all-gather"].bytes in (2 * 7 * 2, 2 * 7 * 4)  # XLA on CPUs may gather bfloat16 as float32


def test_asynchronous_and_joint_exchanges_count_once() -> None:
    text = """
      %a = (f32[4,2]{1,0}, bf16[8]{0}) all-reduce(%x, %y), replica_groups={}
      %b = (f32[3]{0}, f32[6]{0}) all-gather-start(%z), dimensions={0}
      %c = f32[6]{0} all-gather-done(%b)
      %d = f32[] all-reduce-start(%e), to_apply=%add
      %f = f32[9]{0} add(%all-reduce.1, %g)
    """
    found = collectives.exchanged(text)
    assert found["all-reduce"] == collectives.Exchange(2, 4 * 2 * 4 + 8 * 2 + 4)
    assert found["all-gather"] == collectives.Exchange(1, (3 + 6) * 4 // 2)


def test_an_exchange_takes_longer_with_bytes_devices_and_operations() -> None:
    for way in (collectives.ring_seconds, collectives.tree_seconds):
        assert way(1e6, 1, 1e9, 1e-6, 3) == 0
        assert way(1e6, 8, 1e9, 1e-6, 3) < way(2e6, 8, 1e9, 1e-6, 3) < way(2e6, 64, 1e9, 1e-6, 30)
    assert collectives.gather_seconds(1e6, 1, 1e9, 1e-6, 3) == 0
    # Each device has what the three others gathered, in two turns.
    assert collectives.gather_seconds(1e6, 4, 1e9, 1e-6, 5) == pytest.approx(3e-3 + 10e-6)
    # Two devices exchange each half of the bytes twice.
    assert collectives.ring_seconds(1e6, 2, 1e9, 0, 1) == pytest.approx(1e-3)


@pytest.mark.slow
def test_the_step_exchanges_its_gradients() -> None:
    size = SIZES["quick"]
    variables = workloads.fresh_variables(size)
    faces = workloads.noise_faces(4, size.image, 2)
    step = workloads.stage(STAGE_ONE, size, faces, variables, devices=jax.local_devices()[:2])
    trained = sum(leaf.size for v in variables[:2] for leaf in jax.tree.leaves(v["params"]))
    reduced = collectives.exchanged(step.compiled.as_text())["all-reduce"].bytes
    # Beside the gradients: batch statistics and five metrics, a hundredth.
    assert 4 * trained <= reduced < 4.4 * trained
    assert step.traced().flop == pytest.approx(4 / 2 * counts.step_flop(size), rel=0.2)
    assert hardware.flops(step.compiled) > 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["projection"],
        ["identification", "--no-peers"],
        ["inputs"],
        ["stages"],
        ["stages", "--batch", "8", "16"],
        ["batches"],
        ["candidates"],
        ["operations", "--top", "1000"],
    ],
)
def test_runs(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    assert command.main([*arguments, "--quick", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert {"device", "host", "processor", "code", "settings"} <= found.keys()
    assert found["subcommand"] == arguments[0]
    assert len(found["rows"]) >= 1
    assert len(capsys.readouterr().out.splitlines()) > len(found["rows"])


@pytest.mark.slow
def test_masks_run_as_they_are_compiled_for_users() -> None:
    """LowKey at this size once ended the process: XLA's optimised program of it crashed."""
    command_line = [sys.executable, "-m", "benchmarks", "masks", "--quick", "--methods", "lowkey"]
    plain = {
        name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    }
    done = subprocess.run(command_line, cwd=ROOT, env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "lowkey" in done.stdout


def test_a_folded_surrogate_is_the_surrogate() -> None:
    """Norms that are not the identity, strides, both kinds of shortcut, and padding, where a bias is not added."""
    size = SIZES["quick"]
    module, rng = workloads.surrogate_module(size), np.random.default_rng(0)
    fresh = workloads.fresh_variables(size).surrogate
    variables = jax.tree.map(
        lambda x: x if x.ndim > 1 else jnp.asarray(rng.uniform(0.5, 1.5, x.shape).astype(np.float32)), fresh
    )
    faces = jnp.asarray(workloads.noise_faces(2, size.image, 2).unit)
    want = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, faces)
    folded = jax.jit(lambda v: folded_surrogate.fold(v, size.units, size.image))(variables)
    made = jax.jit(lambda v, x: folded_surrogate.folded_features(v, x, size.units))(folded, faces)
    np.testing.assert_allclose(made, want, rtol=1e-4, atol=1e-4 * float(jnp.abs(want).max()))


@pytest.mark.parametrize("name", candidate_layers.PAIRS | candidate_counts.PAIRS)
def test_other_forms_are_the_same(name: str) -> None:
    pair = candidates.PAIRS[name](SIZES["quick"], 2)
    assert candidates.difference(pair.old(), pair.new()) < 1e-4


def test_a_persons_masks_are_compared_with_the_same_persons() -> None:
    ours = np.zeros((3, 2, 2, 1))
    theirs = np.zeros((2, 2, 2, 1))
    theirs[1, 0, 0] = 1.0
    assert masks.difference(ours, theirs, 1.0) == 1 / 8
    assert masks.difference(ours, theirs, 4.0) == 0


def test_backbones_are_added_to_what_was_measured_alike(tmp_path: Path) -> None:
    facts, settings = {"device": "cpu cpu", "host": "two cores"}, {"batch": 8}
    out = tmp_path / "figures.json"
    assert recognisers.earlier(out, settings, facts) == {}
    out.write_text(
        json.dumps(facts | {"settings": settings, "code": {"commit": "abc"}, "backbones": {"ir18": {"parameters": 1}}})
    )
    assert recognisers.earlier(out, settings, facts) == {"ir18": {"commit": "abc", "parameters": 1}}
    for other in ((out, {"batch": 4}, facts), (out, settings, facts | {"host": "four cores"}), (None, settings, facts)):
        with pytest.raises(UserError):
            recognisers.earlier(*other)


@pytest.mark.slow
def test_weak_scaling_over_two_processes() -> None:
    if len(processes.cores()) < 2:
        pytest.skip("one core")
    found = processes.measure(STAGE_ONE, "quick", 4, 2, 1, None)
    assert (found["processes"], found["devices"], found["batch"]) == (2, 2, 8)
    assert found["all_reduced_mb"] > found["gathered_own_mb"] > 0
    assert found["all_gathers"] > 0


def test_projection_equals_cvx(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    assert command.main(["projection", "--quick", "--iterations", "100", "--polish", "16", "--out", str(out)]) == 0
    rows = [row for row in json.loads(out.read_text())["rows"] if row["features"] == "clustered"]
    assert {row["way"] for row in rows} >= {"ours, 100 iterations, 16 polish", "cvxpy, parametrised", "scipy NNLS"}
    assert all(row["error_max"] < 1e-4 for row in rows)


@pytest.mark.parametrize("arguments", [["stages", "--peers", "slow"], ["stages", "--batch", "7"]])
def test_bad_flags_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (requirements-peers.txt)")
    assert command.main(arguments) == 2
    assert arguments[1] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["projection", "--repeats", "0"], "--repeats 0 is too small"),
        (["inputs", "--faces", "-1"], "--faces -1 is too small"),
        (["identification", "--distractors", "10", "-1"], "--distractors -1 is too small"),
        (["inputs", "--out", "/dev/null/figures.json"], "--out /dev/null/figures.json cannot be made: /dev/null is no"),
        (["inputs", "--cache", "/dev/null"], "--cache /dev/null cannot be made"),
    ],
)
def test_what_cannot_be_measured_or_stored_is_refused_at_once(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", command.SUBCOMMANDS)
def test_defaults_are_not_refused(name: str) -> None:
    command.require_usable(command.parser(name).parse_args([name]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [STAGE_ONE, "affine-hull", "convex-hull"])
def test_the_peers_step_is_ours(kind: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (requirements-peers.txt)")
    from benchmarks.peers import comparison

    size, faces = SIZES["quick"], workloads.noise_faces(8, SIZES["quick"].image, 4)
    ours = workloads.stage(kind, size, faces, comparison.our_variables(size))
    first = [ours() for _ in range(2)]
    for way in ("eager", "authors"):
        peer = comparison.Peer(kind, size, faces, comparison.stages.WAYS[way], "cpu")
        assert comparison.agreement(first, [peer.step(number) for number in range(2)]) < 1e-4
