"""What a GPU's program launches and moves is counted right, and steps are lowered for devices that are not there."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from advcloak_jax.errors import UserError
from benchmarks import __main__ as command
from benchmarks import ahead, gpu_programs, workloads
from benchmarks.sizes import SIZES, STAGE_ONE

PROGRAM = """
HloModule jit_run, entry_computation_layout={()->f32[]}

%fused_add (a: f32[4,2]) -> f32[4,2] {
  %a = f32[4,2]{1,0} parameter(0)
  ROOT %sum = f32[4,2]{1,0} add(%a, %a)
}

%body (carry: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %carry = (s32[], f32[4,2]{1,0}) parameter(0)
  %x = f32[4,2]{1,0} get-tuple-element(%carry), index=1
  %i = s32[] get-tuple-element(%carry), index=0
  %loop_add_fusion = f32[4,2]{1,0} fusion(%x), kind=kLoop, calls=%fused_add
  ROOT %tuple = (s32[], f32[4,2]{1,0}) tuple(%i, %loop_add_fusion)
}

%condition (carry.1: (s32[], f32[4,2])) -> pred[] {
  %carry.1 = (s32[], f32[4,2]{1,0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

%fused_slice (b: f32[4,2]) -> f32[1,2] {
  %b = f32[4,2]{1,0} parameter(0)
  %negated = f32[4,2]{1,0} negate(%b)
  ROOT %row = f32[1,2]{1,0} slice(%negated), slice={[0:1], [0:2]}
}

ENTRY %main (x.1: f32[4,2], y: bf16[8]) -> f32[] {
  %x.1 = f32[4,2]{1,0} parameter(0)
  %y = bf16[8]{0} parameter(1)
  %start = (s32[], f32[4,2]{1,0}) tuple(%x.1)
  %known = (s32[], f32[4,2]{1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %open = (s32[], f32[4,2]{1,0}) while(%known), condition=%condition, body=%body
  %z = f32[4,2]{1,0} get-tuple-element(%open), index=1
  %conv = (bf16[8]{0}, u8[0]{0}) custom-call(%y, %y), custom_call_target="__cudnn$convForward"
  %wide = (bf16[8]{0}, u8[0]{0}) custom-call(%y, %y), window={size=57x57 pad=1_1x1_1}, custom_call_target="__cudnn$convForward"
  %small = (bf16[8]{0}, u8[0]{0}) custom-call(%y, %y), window={size=7x7 pad=3_3x3_3}, custom_call_target="__cudnn$convForward"
  %first = f32[1,2]{1,0} fusion(%x.1), kind=kLoop, calls=%fused_slice
  %p = pred[] constant(true)
  %either = f32[4,2]{1,0} conditional(%p, %known, %open), true_computation=%body, false_computation=%body
  ROOT %reduced = f32[] fusion(%z), kind=kInput, calls=%fused_add
}
"""  # noqa: E501


def test_kernels_count_as_often_as_their_loops_run_and_in_both_branches() -> None:
    inside, convolution, row, last = 2 * 4 * 2 * 4, 3 * 8 * 2, 2 * 2 * 4, 4 * 2 * 4 + 4
    found = gpu_programs.count(PROGRAM)
    assert found == gpu_programs.Launched(5 + 1 + 3 + 1 + 2 + 1, 8 * inside + 3 * convolution + row + last, 1, 1)
    with pytest.raises(ValueError, match="ENTRY"):
        gpu_programs.count("HloModule empty")


def test_a_compiled_programs_text_is_understood() -> None:
    """XLA's own text, though a CPU's: a product, and a loop around another."""
    square = jnp.zeros((8, 8))
    looped = lambda x: jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y @ x), x @ x)  # noqa: E731
    found = gpu_programs.count(jax.jit(looped).lower(square).compile().as_text())
    assert found.open_loops == 0
    assert found.kernels >= 1 + 3 * 2
    assert found.bytes >= (1 + 3 * 2) * 2 * 8 * 8 * 4


@pytest.mark.parametrize("kind", [STAGE_ONE, "convex-hull"])
def test_a_step_is_lowered_from_shapes_alone_as_it_is_with_arrays(kind: str) -> None:
    size, devices = SIZES["quick"], jax.local_devices()[:1]
    faces = workloads.noise_faces(4, size.image, 2)
    parts = workloads.make_parts(kind, size, faces, devices, jnp.float32)
    state, resident = parts.begin(workloads.fresh_variables(size))
    with_arrays = parts.program.lower(state, resident, parts.chunk).as_text()
    assert workloads.lowered(kind, size, faces, devices).as_text() == with_arrays


def test_a_batch_is_shared_by_16_images_a_person_as_published_unless_it_is_small() -> None:
    shares = {batch: workloads.images_of_person(batch, None) for batch in (2, 4, 32, 64, 256)}
    assert shares == {2: 1, 4: 2, 32: 16, 64: 16, 256: 16}
    assert workloads.images_of_person(64, 2) == 32
    for batch, persons in ((6, 4), (3, None), (8, 0)):
        with pytest.raises(UserError, match=f"--batch {batch} cannot be shared"):
            workloads.images_of_person(batch, persons)


def test_with_the_hull_in_one_kernel_a_step_lowers_to_no_loop_of_the_solvers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    size, devices = SIZES["quick"], jax.local_devices()[:1]
    faces = workloads.noise_faces(4, size.image, 2)
    lowered = {}
    for solver in ("loops", "kernel"):
        parts = workloads.make_parts("convex-hull", size, faces, devices, jnp.float32, solver=solver)
        state, resident = jax.eval_shape(lambda parts=parts: parts.begin(workloads.fresh_variables(size)))
        traced = parts.program.trace(state, resident, jax.eval_shape(lambda parts=parts: parts.chunk))
        lowered[solver] = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "hull_projection" not in lowered["loops"]
    assert lowered["kernel"].count("hull_projection") >= 1
    assert lowered["loops"].count("stablehlo.while") - lowered["kernel"].count("stablehlo.while") == 3


def test_without_the_plugin_there_is_one_clear_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ahead, "PLUGINS", ("jax.no_such_plugin",))
    assert command.main(["ahead", "--quick"]) == 2
    assert "jax[cuda13]" in capsys.readouterr().err
    assert command.main(["ahead", "--batch", "6", "--persons", "4"]) == 2
    assert "--batch 6" in capsys.readouterr().err


@pytest.mark.slow
def test_a_step_compiles_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    if importlib.util.find_spec("jax_plugins") is None or not any(map(importlib.util.find_spec, ahead.PLUGINS)):
        pytest.skip('JAX\'s CUDA plugin is not installed (pip install "jax[cuda13]")')
    out = tmp_path / "figures.json"
    assert command.main(["ahead", "--quick", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["kernels"] > 100
    assert row["open_loops"] == row["maps_as_kernels"] == 0
    assert row["moved_mb_per_image"] > 0
