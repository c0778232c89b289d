"""A program's process: its streams, its errors in one sentence each, its exit status."""

import contextlib
import errno
import gc
import logging
import multiprocessing
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, TextIO

from advcloak_jax.errors import UserError
from advcloak_jax.training import heap, last_words

BAD_INPUT_STATUS, INTERRUPTED_STATUS = 2, 130
UNREAD_STATUS = 141
"""Exit status of a process whose output nobody reads any more: a shell's for SIGPIPE."""
COLLECTOR = (20_000, 20, 50)
"""Thresholds of Python's garbage collector. With its own, a seventh of the time of tracing is spent on looking through
what a trace has made so far, which is nearly all in use."""


def run_main(main: Callable[[Sequence[str]], None]) -> None:
    """Run a command's `main(arguments)`; tell errors the user can fix in one sentence and exit with status 2."""
    _open_closed_streams()
    heap.keep_on_cpu()
    gc.set_threshold(*COLLECTOR)
    logging.basicConfig(format="warning: %(message)s", level=logging.WARNING, force=True)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_worth_telling)
    threading.excepthook = _thread_failed
    sys.unraisablehook = _callback_failed
    try:
        with _as_long_as_somebody_reads():
            main(sys.argv[1:])
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("Interrupted (training: --resume continues from the last checkpoint).", file=sys.stderr)
        _interrupted()
    except last_words.LostError:
        last_words.leave(last_words.LOST_STATUS)
    except Exception as error:
        if sentence := _of_the_machine(error):
            _fail(sentence)
        if _joined():
            traceback.print_exc()
            _end(1)
        raise


def _interrupted() -> NoReturn:
    """End with status 130; at once where JAX is there, as a program that it still compiles would crash the end."""
    if "jax" in sys.modules and not _joined():
        for child in multiprocessing.active_children():
            child.terminate()
        last_words.leave(INTERRUPTED_STATUS)
    _end(INTERRUPTED_STATUS)


def _open_closed_streams() -> None:
    """Open what a shell has closed (`>&-`): the next files would else be opened in its place, and be written into."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # In this order each gets its own number, the lowest that is free.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


@contextlib.contextmanager
def _as_long_as_somebody_reads() -> Iterator[None]:
    """Ends the process without a word once nobody reads its output any more, as behind `--help | head`."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        unread = [stream for stream in (sys.stdout, sys.stderr) if _reader_is_gone(stream)]
        if not unread:
            raise
        # What is still to be written goes nowhere: the interpreter would complain of it at its end.
        for stream in unread:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        _end(UNREAD_STATUS)


def _reader_is_gone(stream: TextIO) -> bool:
    if not hasattr(select, "poll"):  # Windows tells it by another error
        return False
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _worth_telling(record: logging.LogRecord) -> bool:
    """Libraries log their bookkeeping, and with a traceback what they also raise: that arrives here as an exception.

    A filter, as these loggers are the libraries' own to make, which come after this.
    """
    return record.levelno >= logging.CRITICAL or not record.name.startswith(("absl", "asyncio", "concurrent.futures"))


def _thread_failed(arguments: threading.ExceptHookArgs) -> None:
    """On a full disk background writers fail as the main thread does, which says so in its one sentence."""
    if _of_the_machine(arguments.exc_value) is None:
        threading.__excepthook__(arguments)


def _callback_failed(arguments: "sys.UnraisableHookArgs") -> None:
    """When a checkpoint's writer fails, the arrays that are still under way find its event loop closed, each with a
    traceback from the library's own threads; the writer's error arrives in the main thread."""
    if not (isinstance(arguments.exc_value, RuntimeError) and str(arguments.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(arguments)


def _of_the_machine(error: BaseException | None) -> str | None:
    """A sentence for a full disk, a missing permission or an impossible path along the chain of causes, or for a full
    memory; else None."""
    whole = error
    while error is not None:
        number = getattr(error, "errno", None)
        where = getattr(error, "filename", None) or "the output folder"
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            return f"The disk of {where} is full; free some space and start again (training: with --resume)."
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"No permission to use {where}; choose a folder that you may write to, or change its permissions."
        if number in (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST):
            return f"{str(where)[:200]} is no path that can be used ({os.strerror(number)}); choose another one."
        error = error.__cause__ or error.__context__
    if isinstance(whole, MemoryError) or "RESOURCE_EXHAUSTED" in str(whole):
        said = str(whole).strip().split("\n")[0][:200].rstrip(".")
        return f"There is not enough memory ({said}); lower the batch, the size of images or the width of networks."
    return None


def _fail(sentence: str, status: int = BAD_INPUT_STATUS) -> NoReturn:
    # What threads and exit handlers still try finds the disk full or its queues closed: the sentence says it.
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None
    print(f"error: {sentence}", file=sys.stderr)
    _end(status)


def _joined() -> bool:
    """Whether this process has joined others, for which it needs JAX; help and bad flags do without."""
    if "jax" not in sys.modules:
        return False
    from advcloak_jax.training import distributed

    return distributed.active()


def _end(status: int) -> NoReturn:
    if not _joined():
        raise SystemExit(status)
    from advcloak_jax.training import distributed

    distributed.fail(status)
