"""Contestants in processes of their own, one at work at a time.

A contestant is an object in a child process; its methods are called by JSON over a
pipe. Between calls the child and all that it has started stand still (SIGSTOP): a BLAS
thread that still spins, or the heartbeat of an idle cluster, would disturb the others.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any

from benchmarks._as_module import clean_environment

#: Seconds that a child has for one call.
CALL_LIMIT = 900.0
#: Seconds that a child has to end; fewer after an error or Ctrl-C, when it may be at
#: work.
CLOSE_LIMIT = 60.0
FAILED_CLOSE_LIMIT = 5.0

#: Whoever computes in a child reads its number of threads from one of these.
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")


class ChildFailedError(Exception):
    """The child raised, ended or took too long."""


class Child:
    """The parent's end.

    Parameters
    ----------
    target : str
        ``"module:Class"``, the contestant.
    *arguments : object
        Of its constructor, as JSON can tell them.
    blas_threads : int, optional
        Threads of BLAS, OpenMP and XLA in the child; None leaves all cores to them.
    environment : dict, optional
        More variables.
    before : sequence of str, optional
        A command that runs the child, as ``ip netns exec NAME``.
    """

    def __init__(
        self,
        target: str,
        *arguments: Any,
        blas_threads: int | None = None,
        environment: dict[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> None:
        self._target = target
        variables = clean_environment()
        for name in _THREADS:
            variables.pop(name, None)
            if blas_threads is not None:
                variables[name] = str(blas_threads)
        # A group of its own, to stop and to end with all that it starts; but in our
        # session, so that the system wakes it up if we are killed.
        self._process = subprocess.Popen(
            [
                *before,
                sys.executable,
                "-m",
                "benchmarks.child",
                target,
                json.dumps(arguments),
            ],
            env=variables | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        self._read = b""
        self._started = False

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: object, *exc_info: object) -> None:
        self.close(CLOSE_LIMIT if kind is None else FAILED_CLOSE_LIMIT)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the contestant and return what it returns."""
        self.send(method, *arguments)
        return self.receive(method)

    def send(self, method: str, *arguments: Any) -> None:
        """Begin a call; `receive` ends it."""
        if not self._started:  # only now, so that several can start side by side
            self.receive("start")
            self._started = True
        self._signal(signal.SIGCONT)
        pipe = self._process.stdin
        assert pipe is not None
        pipe.write(json.dumps([method, arguments]).encode() + b"\n")
        pipe.flush()

    def receive(self, method: str) -> Any:
        """Wait for the answer, and let the child stand still."""
        answer = json.loads(self._line(method))
        self._signal(signal.SIGSTOP)
        if "error" in answer:
            raise ChildFailedError(f"{self._target}.{method}: {answer['error']}")
        return answer["result"]

    def close(self, limit: float = CLOSE_LIMIT) -> None:
        """Let the child end, or kill it with all that it has started."""
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._signal(signal.SIGCONT)
        try:
            self._process.wait(limit)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait(CLOSE_LIMIT)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _line(self, method: str) -> bytes:
        pipe = self._process.stdout
        assert pipe is not None
        deadline = time.monotonic() + CALL_LIMIT
        while b"\n" not in self._read:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([pipe], [], [], left)[0]:
                raise ChildFailedError(
                    f"{self._target}.{method} did not answer within {CALL_LIMIT:g} s"
                )
            read = os.read(pipe.fileno(), 65536)
            if not read:
                raise ChildFailedError(
                    f"{self._target} ended in {method}, with the code "
                    f"{self._process.wait(CLOSE_LIMIT)}"
                )
            self._read += read
        line, _, self._read = self._read.partition(b"\n")
        return line


class Contestant:
    """What runs in a child."""

    def close(self) -> None:
        """Let go of what the constructor has opened."""


def answer(contestant: Any, method: str, arguments: Any) -> str:
    """Call it and write down what comes out."""
    try:
        result = getattr(contestant, method)(*arguments)
    except Exception:
        return json.dumps({"error": traceback.format_exc()})
    return json.dumps({"result": result})


def orders() -> Iterator[str]:
    """The parent's lines. After the last one, this group has a minute to end."""
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put("")
        # The parent may have been killed while something hangs here.
        time.sleep(CLOSE_LIMIT)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=read, daemon=True).start()
    return iter(lines.get, "")


def serve(target: str, arguments: Any) -> None:
    """Be the child until the pipe ends."""
    # Short fits warn that they have not converged; nothing else is silenced.
    warnings.filterwarnings("ignore", message=".*hasn't converged yet")
    warnings.filterwarnings("ignore", message="(?s).*lbfgs failed to converge")
    # If the parent is killed, the system wakes us with this signal, and the end of the
    # pipe tells us to leave in order.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # What libraries print must not end up among the answers.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(text: str) -> None:
        pipe.write(text + "\n")
        pipe.flush()

    module, _, name = target.partition(":")
    try:
        contestant = getattr(importlib.import_module(module), name)(*arguments)
    except Exception:
        say(json.dumps({"error": traceback.format_exc()}))
        return
    try:
        say(json.dumps({"result": None}))
        for line in orders():
            say(answer(contestant, *json.loads(line)))
    finally:
        contestant.close()


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
