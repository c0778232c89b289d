"""How a process ends that has lost the others of its job. Nothing here needs JAX."""

import os
import subprocess
import sys
from typing import NoReturn

LOST_STATUS = 75
"""Exit status after another process was lost: start all of them again with --resume (EX_TEMPFAIL of sysexits.h)."""
LOST = (
    "error: another process was lost, so this one cannot go on (their logs say which); start all of them again "
    "(training: with --resume)."
)


class LostError(Exception):
    """Another process was lost. `words` say so when this one has ended, below all that JAX's runtime has printed."""

    def __init__(self, words: "LastWords") -> None:
        super().__init__(LOST)
        self.words = words


class LastWords:
    """A sentence on standard error for a process that is ended from outside and cannot say it itself.

    JAX's runtime aborts a process that has lost the others. A shell that holds the other end of a pipe is told the
    sentence beforehand, and says it when the pipe closes.
    """

    def __init__(self) -> None:
        script = 'last=; while IFS= read -r line; do last=$line; done; [ -z "$last" ] || echo "$last" >&2'
        self._shell = subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.PIPE, text=True, process_group=0)

    def are(self, sentence: str) -> None:
        """Say this from now on; nothing if it is empty."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(sentence + "\n")
        self._shell.stdin.flush()

    def close(self) -> None:
        """The process ends as it should: nothing is to be said."""
        self.are("")
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait()


def leave(status: int) -> NoReturn:
    """End this process at once, where JAX would wait for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
