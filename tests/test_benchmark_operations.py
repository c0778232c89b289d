"""Where a step's time goes: whose an instruction is, and that the profile finds the layers that are slow."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks import operations, workloads

PROGRAM = """HloModule jit_run

%fused_computation (param_0: f32[2]) -> f32[2] {
  %param_0 = f32[2] parameter(0)
  ROOT %add.1 = f32[2] add(%param_0, %param_0), metadata={op_name="jit(run)/transpose(jvp(Generator))/encode_0/add"}
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2] parameter(0)
  %fusion.7 = f32[2] fusion(%x), kind=kLoop, calls=%fused_computation
  %while.1 = f32[2] while(%fusion.7), condition=%c, body=%b, metadata={op_name="jit(run)/jvp(Generator)/while"}
  %dot.3 = f32[2] dot(%x, %x), metadata={op_name="jit(run)/jvp(Discriminator)/norm_1/norm_1._statistics/dot_general"}
  %dot.4 = f32[2] dot(%x, %x), metadata={op_name="jit(run)/transpose(jvp(D))/conv_1/transpose(jvp(D))/conv_1/dot"}
  ROOT %copy.2 = f32[2] copy(%dot.3), metadata={op_name="jit(run)/add"}
}
"""


def test_instructions_belong_to_layers() -> None:
    found = operations.operations(PROGRAM)
    assert found["fusion.7"] == ("Generator", "encode_0", "backward", "fusion")
    assert found["dot.3"] == ("Discriminator", "norm_1", "forward", "dot")
    assert found["dot.4"] == ("D", "conv_1", "backward", "dot")
    assert found["copy.2"] == ("other", "", "forward", "copy")
    assert "while.1" not in found
    rows = operations.by_layer(found, {"fusion.7": 0.003, "dot.3": 0.001, "elsewhere": 1.0})
    assert [(row["layer"], row["share"], row["operations"]) for row in rows] == [
        ("encode_0", 0.75, 1),
        ("norm_1", 0.25, 1),
    ]


class Net(nn.Module):
    """A wide layer and a narrow one."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(8, name="narrow")(nn.Dense(2048, name="wide")(x))


def test_the_slow_layer_is_found() -> None:
    net, x = Net(), jnp.ones((256, 512))
    params = net.init(jax.random.key(0), x)

    def run(state: jax.Array, params: object, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        made = net.apply(params, x)
        assert isinstance(made, jax.Array)
        return state + 1, made.sum()

    step = workloads.Workload(jax.jit(run), jnp.zeros(()), params, x, 256, 1)
    jax.block_until_ready(step())
    seconds, walls = operations.profile(step, 3)
    rows = operations.by_layer(operations.operations(step.compiled.as_text()), seconds)
    assert (rows[0]["network"], rows[0]["layer"]) == ("Net", "wide")
    assert rows[0]["share"] > 0.5
    # A median of three is at most half of their sum, so that however many instructions' medians are half of all steps.
    assert 0 < rows[0]["ms"] <= 1e3 * sum(walls) / 2
