"""Settings of a job that several processes share: how they find each other. They belong to one start, not a run."""

import dataclasses
from typing import Literal

from advcloak_jax.config.checks import require
from advcloak_jax.config.start import StartConfig

Detection = Literal["off", "auto"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterConfig(StartConfig):
    """Settings of every job that several processes can share."""

    coordinator: str = ""
    """HOST:PORT at which the first process (number 0) is reached by all; the port must be free there."""
    processes: int | None = None
    """Number of processes that share the job."""
    process_id: int | None = None
    """Number of this process, from 0."""
    distributed: Detection = "off"
    """auto: take the three flags above from SLURM, Open MPI, Kubernetes or the TPU pod that started this process."""
    initialization_timeout: int = 300
    """Seconds to wait for all processes at the start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {
            "--coordinator": bool(self.coordinator),
            "--processes": self.processes is not None,
            "--process-id": self.process_id is not None,
        }
        missing = [name for name, there in given.items() if not there]
        require(
            len(missing) in (0, 3),
            f"--coordinator, --processes and --process-id belong together; {' and '.join(missing)} is missing.",
        )
        require(
            self.distributed == "off" or len(missing) == 3,
            "--distributed auto finds the processes itself; drop it, or --coordinator, --processes and --process-id.",
        )
        require(self.initialization_timeout >= 1, "--initialization-timeout must be at least 1 second.")
        if self.coordinator and self.processes is not None and self.process_id is not None:
            host, _, port = self.coordinator.rpartition(":")
            require(
                bool(host) and port.isascii() and port.isdigit() and 0 < int(port) < 65536,
                f"--coordinator {self.coordinator} is no HOST:PORT, as in node1:12345.",
            )
            require(self.processes >= 1, "--processes must be at least 1.")
            require(
                0 <= self.process_id < self.processes,
                f"--process-id {self.process_id} must be from 0 to {self.processes - 1}, one less than --processes.",
            )


STARTING = tuple(field.name for field in dataclasses.fields(ClusterConfig))
"""Names of these settings and those of every start, which are not stored with a run."""
