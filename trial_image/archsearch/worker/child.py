"""The trial child: a process of its own session that runs trials and tells how each ended. For the zygote alone."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import random
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from archsearch.errors import ArchsearchError, BadMetric, StoreError
from archsearch.protocol import Assignment, FailureClass, Member, TrialKind, TrialState
from archsearch.spec import names
from archsearch.spec.base import JsonObject
from archsearch.trial.context import Infeasible, TrialContext, TrialReleased, TrialStopped, set_current
from archsearch.trial.metrics import check_final
from archsearch.worker import linux
from archsearch.worker.channel import ChildChannel, encode

MESSAGE_LIMIT = 8_000
TRACEBACK_LINES = 40
OOM_SCORE = 800
_MEASURED = (TrialKind.EVALUATE, TrialKind.INHERIT, TrialKind.RETRAIN)
_WEIGHTED = (TrialKind.EVALUATE, TrialKind.SUPERNET, TrialKind.RETRAIN)


def load_runner(target: str) -> Callable[[TrialContext], Any]:
    """The function that runs a trial, from `module:function`."""
    module, _, name = target.partition(":")
    found: Callable[[TrialContext], Any] = getattr(importlib.import_module(module), name)
    return found


def main(connection: socket.socket, zygote: int, runner: str) -> NoReturn:
    """Serve trials until told that one was the last, one did not succeed, or the supervisor is gone. Never returns."""
    try:
        os.setsid()
        linux.die_with_parent(zygote)
        with contextlib.suppress(OSError):  # short of memory, the trial goes first, not the worker
            Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        _redirect(os.devnull, os.O_RDONLY, 0)
        code_dir = os.environ.get(names.ENV_CODE_DIR)
        if code_dir and code_dir not in sys.path:
            sys.path.insert(0, code_dir)
        channel = ChildChannel(connection)
        while (order := channel.receive()) is not None:
            result = _serve(order, channel, runner)
            channel.send(result)
            if order["last"] or result["outcome"]["state"] != TrialState.SUCCEEDED:
                break
            gc.collect()
    except BaseException:
        traceback.print_exc()
        _leave(1)
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End without the interpreter's shutdown: user code's threads and exit handlers have no say in it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
    os._exit(code)


def _redirect(path: str, flags: int, *targets: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    for target in targets:
        os.dup2(descriptor, target)
    os.close(descriptor)


def _serve(order: JsonObject, channel: ChildChannel, runner: str) -> JsonObject:
    directory = Path(order["directory"])
    os.chdir(directory)
    _redirect(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 1, 2)
    os.environ["TMPDIR"] = str(directory)
    context = TrialContext(
        Assignment.model_validate(order["assignment"]),
        directory,
        channel=channel,
        threads=order["threads"],
        cache=Path(order["cache"]),
        resume=_path(order["resume"]),
        input_checkpoint=_path(order["input"]),
        input_verified=True,  # by the supervisor, when it was fetched
        checkpoint_seconds=order["checkpointSeconds"],
        member=Member.model_validate(order["member"]) if order["member"] else None,
    )
    before = _usage()
    start = time.monotonic()
    set_current(context)
    try:
        _prepare(context)
        outcome = _outcome(context, runner)
        if context.member is not None:
            _leave_group(outcome)
        _close(context)
    finally:
        set_current(None)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    weights = outcome.pop("weights", False)
    outcome["resources"] = _resources(context, before, time.monotonic() - start)
    return {"type": "result", "outcome": outcome, "weights": weights}


def _close(context: TrialContext) -> None:
    """A checkpoint that could not be written is no reason to drop a trial that has ended."""
    try:
        context.close()
    except Exception:
        traceback.print_exc()


def _join_group(member: Member) -> None:
    """What torchrun tells a process, for code that asks torch.distributed; the ranks meet without torchrun's agent."""
    os.environ |= {
        "RANK": str(member.rank),
        "WORLD_SIZE": str(member.ranks),
        "LOCAL_RANK": str(member.local_rank),
        "LOCAL_WORLD_SIZE": str(member.ranks if member.is_local else 1),
        "GROUP_RANK": str(member.rank if not member.is_local else 0),
        "MASTER_ADDR": member.master_address,
        "MASTER_PORT": str(member.master_port),
    }
    if member.is_local:  # a laptop's own name may resolve to nothing, or to an address that is gone tomorrow
        os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def _leave_group(outcome: JsonObject) -> None:
    """So that a process that goes on to serve can join the next one. One whose trial failed ends, without waiting."""
    import torch.distributed

    from archsearch.supernet import distributed

    if outcome["state"] == TrialState.SUCCEEDED:
        distributed.stop()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _prepare(context: TrialContext) -> None:
    """Threads and seeds of this trial; children of one zygote would otherwise share its random state."""
    import torch

    if context.member is not None:
        _join_group(context.member)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(context.threads)  # for processes that user code starts
    torch.set_num_threads(context.threads)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()  # an earlier trial's peak is not this one's
    random.seed(context.seed)
    torch.manual_seed(context.seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(context.seed % 2**32)


def _outcome(context: TrialContext, runner: str) -> JsonObject:
    """Run the trial and say how it ended, whatever happens."""
    import torch

    try:
        try:
            found = load_runner(runner)(context)
            metrics, payload = dict(found.metrics), found.payload
        except SystemExit as error:
            if context.final_metrics is None:
                code = error.code
                return _failed(
                    FailureClass.USER_ERROR, f"the code called sys.exit({code!r}) before it reported a result"
                )
            metrics, payload = context.final_metrics, None
        return _succeeded(context, metrics, payload)
    except TrialStopped:
        return {"state": TrialState.PRUNED, "metrics": context.last_metrics}
    except TrialReleased:
        return {
            "state": TrialState.PENDING,
            "metrics": context.last_metrics,
            "failure": FailureClass.PREEMPTED,
            "message": "given back with its checkpoint",
        }
    except Infeasible as error:
        return {"state": TrialState.INFEASIBLE, "metrics": context.last_metrics, "message": str(error)[:MESSAGE_LIMIT]}
    except (MemoryError, torch.OutOfMemoryError) as error:
        return _failed(FailureClass.OUT_OF_MEMORY, f"out of memory: {_last_lines(error)}")
    except BadMetric as error:
        return _failed(FailureClass.BAD_METRIC, str(error))
    except StoreError as error:
        return _failed(FailureClass.INFRASTRUCTURE, str(error))
    except ArchsearchError as error:
        return _out_of_touch(context, error) or _failed(FailureClass.USER_ERROR, str(error))
    except BaseException as error:
        traceback.print_exc()
        return _out_of_touch(context, error) or _failed(FailureClass.USER_ERROR, _last_lines(error))


def _succeeded(context: TrialContext, metrics: dict[str, float], payload: Any) -> JsonObject:
    measured = context.assignment.kind in _MEASURED
    metrics = check_final(context.assignment, metrics, objectives=measured)
    outcome: JsonObject = {"state": TrialState.SUCCEEDED, "metrics": metrics, "payload": payload}
    try:
        encode(outcome)
    except (TypeError, ValueError) as error:
        return _failed(
            FailureClass.USER_ERROR, f"the payload of the {context.assignment.kind} trial is no JSON: {error}"
        )
    outcome["weights"] = context.assignment.kind in _WEIGHTED and context.save_final_weights(metrics) is not None
    return outcome


def _out_of_touch(context: TrialContext, error: BaseException) -> JsonObject | None:
    """Of a rank whose process group broke: why it did, the rank that began it tells. None for any other error."""
    if context.member is None:
        return None
    from archsearch.supernet.distributed import is_peer_error

    if not is_peer_error(error):
        return None
    return _failed(FailureClass.INFRASTRUCTURE, str(error)) | {"state": TrialState.PENDING}


def _failed(failure: FailureClass, message: str) -> JsonObject:
    return {"state": TrialState.FAILED, "failure": failure, "message": message[-MESSAGE_LIMIT:]}


def _last_lines(error: BaseException) -> str:
    """The end of the traceback, the frames of this module left out."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename == __file__:
        frame = frame.tb_next
    text = "".join(traceback.format_exception(type(error), error, frame or error.__traceback__))
    return "\n".join(text.rstrip().splitlines()[-TRACEBACK_LINES:])[-MESSAGE_LIMIT:]


def _usage() -> float:
    own, below = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + below.ru_utime + below.ru_stime


def _resources(context: TrialContext, before: float, wall: float) -> JsonObject:
    import torch

    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    found: JsonObject = {
        "wallSeconds": wall,
        "cpuSeconds": _usage() - before,
        "peakMemoryBytes": peak * 1024,
        "threads": context.threads,
        "device": "cpu",
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found |= {
            "gpuSeconds": wall,
            "peakGpuMemoryBytes": torch.cuda.max_memory_allocated(),
            "device": torch.cuda.get_device_name(),
        }
    if context.charged_seconds is not None:
        found["gpuSeconds"] = context.charged_seconds
    return found
