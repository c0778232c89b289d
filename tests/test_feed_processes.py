"""Two real processes are fed with the same global batches as one, by every feed under both mappings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ports import free_port
from rec_files import encoded, smooth

from advcloak_jax.config import PrepareConfig
from advcloak_jax.jobs import prepare

PROGRAM = Path(__file__).with_name("feed_process.py")


@pytest.mark.slow
def test_two_processes_see_what_one_sees(tmp_path: Path) -> None:
    for number in range(21):
        folder = tmp_path / "faces" / f"p{number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02d}.jpg").write_bytes(encoded(smooth(number, 32)))
    config = PrepareConfig(
        source=f"folder:{tmp_path / 'faces'}", out=str(tmp_path / "set"), image_size=32, shard_images=6
    )
    out = prepare.run(config)
    port = free_port()
    environment = {
        **os.environ,
        "XLA_FLAGS": "",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(PROGRAM.parents[1]),
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(process), str(processes), str(port), str(out)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for processes in (1, 2)
        for process in range(processes)
    ]
    told = []
    for one in started:
        output, errors = one.communicate(timeout=300)
        assert one.returncode == 0, errors
        told.append(json.loads(output.splitlines()[-1]))
    alone, first, second = told
    assert first == second == alone
    assert len(alone) == 6
    assert len(set(alone.values())) == 1
