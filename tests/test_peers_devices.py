"""PyTorch's peers run on the kind of device that JAX does, with all they hold there, and are refused where they cannot.

A machine without CUDA has PyTorch's device without values, "meta": what is left on the CPU is refused beside it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from advcloak_jax.errors import UserError
from benchmarks import stages, workloads
from benchmarks.sizes import SIZES, STAGE_ONE, SUBSPACES

torch = pytest.importorskip("torch", reason="PyTorch is not installed (requirements-peers.txt)")
comparison = pytest.importorskip("benchmarks.peers.comparison")
device = pytest.importorskip("benchmarks.peers.device")
networks = pytest.importorskip("benchmarks.peers.networks")
recognisers = pytest.importorskip("benchmarks.peers.recognisers")

SIZE = SIZES["quick"]


DEVICE = "meta"
"""PyTorch's device without values, which refuses an operation with operands elsewhere as CUDA would."""


@pytest.fixture
def plain_optimisers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fused kernels, which know no tensors without values."""
    for name in ("Adam", "SGD"):
        made = getattr(torch.optim, name)
        monkeypatch.setattr(torch.optim, name, lambda *a, made=made, fused, **k: made(*a, **k))


def tensors_of(network: Any) -> list[Any]:
    """Parameters and buffers."""
    return [*network.parameters(), *network.buffers()]


@pytest.mark.usefixtures("plain_optimisers")
@pytest.mark.parametrize("kind", [STAGE_ONE, *SUBSPACES])
@pytest.mark.parametrize("way", [name for name, way in comparison.stages.WAYS.items() if not way.compiled])
def test_a_stages_step_stays_on_its_device(kind: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # CVX computes on the CPU, with values that a fake tensor has not.
    monkeypatch.setattr(comparison.Peer, "_by_cvx", lambda self, embeddings: torch.zeros_like(embeddings))
    faces = workloads.noise_faces(8, SIZE.image, 4)
    peer = comparison.Peer(kind, SIZE, faces, comparison.stages.WAYS[way], DEVICE)
    assert {tensor.device.type for network in peer.stage.networks for tensor in tensors_of(network)} == {DEVICE}
    losses = peer._step(peer.labels)
    assert {value.device.type for value in losses.values()} == {DEVICE}


@pytest.mark.usefixtures("plain_optimisers")
@pytest.mark.parametrize("way", [way for way in recognisers.WAYS if not way.startswith("compile")])
def test_a_recognisers_step_stays_on_its_device(way: str) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((512, recognisers.CLASSES)).astype(np.float32)
    backbone = networks.Backbone((1, 1, 1, 1), (8, 8, 8, 8), 512, "arcface_torch")
    theirs = recognisers.Theirs(networks.make_backbone(backbone, 32), weights, way, DEVICE)
    assert {tensor.device.type for tensor in [*tensors_of(theirs.network), theirs.weights]} == {DEVICE}
    faces = networks.to_nchw(rng.random((2, 32, 32, 3), np.float32), DEVICE)
    assert theirs(faces, torch.zeros(2, dtype=torch.int64, device=DEVICE)).device.type == DEVICE


def test_two_devices_are_refused() -> None:
    """What the tests above rest on."""
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(2, device=DEVICE) + torch.ones(2)


def test_on_a_gpu_products_are_tf32_as_jaxs_but_not_the_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for owner, name in ((torch.backends.cudnn, "benchmark"), (torch.backends.cudnn, "allow_tf32")):
        monkeypatch.setattr(owner, name, False)
    before = torch.get_float32_matmul_precision()
    try:
        assert device.find("gpu") == device.find("cuda") == "cuda"
        assert torch.get_float32_matmul_precision() == "high"
        with device.exact_products():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.allow_tf32
    assert (
        device.tolerance("cpu", "float32") < device.tolerance("cuda", "float32") < device.tolerance("cuda", "bfloat16")
    )


@pytest.mark.parametrize(("platform", "told"), [("tpu", "tpu"), ("cuda", "has no CUDA"), ("gpu", "has no CUDA")])
def test_a_ratio_of_two_kinds_of_device_is_refused(platform: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=told):
        device.find(platform)


def test_half_of_a_gpus_memory_is_left_to_pytorch_unless_told_otherwise() -> None:
    fresh: dict[str, str] = {}
    device.share_memory(fresh)
    assert [float(share) for share in fresh.values()] == [0.5]
    for name in device.FRACTIONS:
        told = {name: "0.7"}
        device.share_memory(told)
        assert told == {name: "0.7"}


@pytest.mark.slow
def test_what_does_not_fit_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the peer's ways alone: the others are compared; and ours: nothing is measured."""
    made = comparison.Peer.__init__

    def too_large(self: Any, kind: str, size: Any, faces: Any, way: Any, device: str) -> None:
        if way.channels_last:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        made(self, kind, size, faces, way, device)

    monkeypatch.setattr(comparison.Peer, "__init__", too_large)
    options = stages_options(["--quick", "--peers", "eager", "eager+channels_last"])
    outcome = stages.run(options)
    assert [row["way"] for row in outcome.figures["rows"]] == ["ours", "eager"]
    assert any("a batch of 4" in note and "eager+channels_last" in note for note in outcome.notes)

    def exhausted(*_: Any, **__: Any) -> Callable[[], Any]:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")

    monkeypatch.setattr(workloads, "stage", exhausted)
    outcome = stages.run(options)
    assert outcome.figures["rows"] == []
    assert any("a batch of 4" in note and "ours" in note for note in outcome.notes)
    monkeypatch.setattr(workloads, "stage", functools.partial(_fails, "INTERNAL: something else"))
    with pytest.raises(RuntimeError, match="something else"):
        stages.run(options)


def _fails(text: str, *_: Any, **__: Any) -> None:
    raise RuntimeError(text)


def stages_options(arguments: list[str]) -> Any:
    """As the command line gives them."""
    from benchmarks import __main__ as command

    return command.parser("stages").parse_args(["stages", *arguments])
