"""Flags of several processes are refused with a sentence, and so ends who has lost another, in this process alone."""

import os
from typing import Any

import jax
import pytest
from ports import free_port

from advcloak_jax.config import ClusterConfig
from advcloak_jax.errors import UserError
from advcloak_jax.training import distributed


class TestFlags:
    def test_half_of_them(self) -> None:
        with pytest.raises(UserError, match=r"belong together; --processes and --process-id is missing"):
            ClusterConfig(coordinator="a:1")

    @pytest.mark.parametrize("number", [-1, 2])
    def test_a_number_that_cannot_be(self, number: int) -> None:
        with pytest.raises(UserError, match=rf"--process-id {number} must be from 0 to 1"):
            ClusterConfig(coordinator="a:1", processes=2, process_id=number)

    @pytest.mark.parametrize("where", ["node1", "node1:", ":5", "node1:99999", "node1:x"])
    def test_a_coordinator_that_is_no_address(self, where: str) -> None:
        with pytest.raises(UserError, match=r"is no HOST:PORT, as in node1:12345"):
            ClusterConfig(coordinator=where, processes=2, process_id=0)

    def test_both_ways_at_once(self) -> None:
        with pytest.raises(UserError, match=r"--distributed auto finds the processes itself"):
            ClusterConfig(coordinator="a:1", processes=2, process_id=0, distributed="auto")

    def test_nobody_there(self) -> None:
        where = f"127.0.0.1:{free_port()}"
        config = ClusterConfig(coordinator=where, processes=2, process_id=1, initialization_timeout=1)
        with (
            pytest.raises(UserError, match=rf"--coordinator {where} was not reached within 1 s"),
            distributed.joined(config),
        ):
            raise AssertionError

    def test_no_cluster_to_find(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_"))]:
            monkeypatch.delenv(name)

        def fail(*_: Any, **__: Any) -> None:
            raise ValueError("coordinator_address should be defined.")

        monkeypatch.setattr(jax.distributed, "initialize", fail)
        with (
            pytest.raises(UserError, match=r"--distributed auto finds no cluster here"),
            distributed.joined(ClusterConfig(distributed="auto")),
        ):
            raise AssertionError

    def test_alone_nothing_is_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jax.distributed, "initialize", None)
        with distributed.joined(ClusterConfig()):
            assert not distributed.active()
            assert distributed.writes()
            assert distributed.share("x", lambda: {"a": 1}) == {"a": 1}


def test_last_words(capfd: pytest.CaptureFixture[str]) -> None:
    for said, expected in ((["one", "two"], "two\n"), (["one", ""], "")):
        words = distributed.LastWords()
        for sentence in said:
            words.are(sentence)
        assert words._shell.stdin is not None
        words._shell.stdin.close()  # as when the process is gone
        words._shell.wait()
        assert capfd.readouterr().err == expected


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Gloo all-reduce failed: Connection reset by peer"), distributed.LOST + "\n"),
        (RuntimeError("of our own"), ""),
        (UserError("--run is missing."), ""),
        (KeyboardInterrupt(), ""),
    ],
)
def test_who_has_lost_another_says_so_last(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: BaseException, said: str
) -> None:
    """Below whatever the runtime prints before the process is gone: for others, the command line has the sentence."""
    monkeypatch.setattr(distributed, "_initialize", lambda config: None)
    monkeypatch.setattr(distributed, "active", lambda: True)
    expected = distributed.LostError if said else type(error)
    with (
        pytest.raises(expected) as caught,
        distributed.joined(ClusterConfig(coordinator="a:1", processes=2, process_id=0)),
    ):
        raise error
    assert capfd.readouterr().err == ""
    if isinstance(caught.value, distributed.LostError):
        caught.value.words._shell.communicate()  # closes the pipe, as when the process is gone
    assert capfd.readouterr().err == said
