"""Runs the command line: ``dms VERB ...``, also ``python -m dms_spec VERB ...``.

A verb is a module of this package with ``add_arguments(parser)``, ``run(args)``, which returns
the exit code, and ``EXAMPLE``, which ends its help. Only the verb that is called is imported, so
that ``dms --help`` is quick. Parsing imports no plugin, so that ``dms plugins list`` works however
broken the plugins are.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

from dms_spec._version import EDITION, PACKAGE
from dms_spec.cli.codes import BAD_INPUT, DEFECT, GOOD, OUT_OF_TOLERANCE, UNAVAILABLE
from dms_spec.cli.parser import Parser
from dms_spec.cli.printing import note, tell_error
from dms_spec.errors import BackendUnavailable, DMSError, PluginError, VerificationError

#: The verbs, each with its help.
VERBS = {
    "schedule": "weigh and fuse a batch of samples",
    "embed": "make a table of embeddings of images, texts and sounds, with encoders that you have",
    "fit": "learn heads and a scheduler from a table of embeddings",
    "predict": "score a table of embeddings with what dms fit learned",
    "watch": "compare a stream of predictions with a reference, and give alarms",
    "diff": "compare two artifacts: spec, parameters, metrics, predictions of a table",
    "robustness": "measure a fitted artifact under noise, conflict and missing modalities",
    "explain": "show why the weights of a sample are what they are",
    "export": "write a scheduler for another runtime, such as onnx, and verify it",
    "verify": "check an exported model again, on the machine where it is to run",
    "check": "run the conformance suite on a backend",
    "report": "draw reports of dms check side by side, as Markdown, HTML or a badge",
    "demo": "weigh four views of real digits, clean, noisy and missing: a table and a picture",
    "backends": "list the backends, what each can do here, and why some cannot",
    "plugins": "list the plugins, the broken ones with the reason and the fix",
    "bench": "time backends against what this machine allows",
    "doctor": "run a worked example on every backend and device, and compare with the oracle",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Returns:
        0 good, 1 not conformant or different, 2 bad usage or input, 3 a result outside tolerance,
        4 backend unavailable, 70 a defect in the program or in a plugin, with its traceback;
        128 and the number of the signal that stopped it.
    """
    if sys.stderr is None:  # closed, and messages would go to stdout; open until the end
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        return _fail("standard output is closed. Send it to a file, or to /dev/null", BAD_INPUT)
    # Our warnings inform the user; they do not show a line of source to a developer.
    warnings.showwarning = _show_warning
    try:
        with _stopped_by_signals():
            code = _run(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()  # a reader that went away is noticed here, not at exit
            return code
    except (BackendUnavailable, PluginError) as error:
        return _fail(error, UNAVAILABLE)
    except VerificationError as error:
        return _fail(error, OUT_OF_TOLERANCE)
    except DMSError as error:
        return _fail(error, BAD_INPUT)
    except KeyboardInterrupt as stop:
        return _fail("stopped", 128 + (stop.args[0] if stop.args else signal.SIGINT))
    except BrokenPipeError:
        # The reader of our output went away, as in `dms backends | head -1`.
        _drop_stdout()
        return GOOD
    except OSError as error:
        _drop_stdout()
        where = error.filename or "standard output"
        return _fail(f"cannot use {where}: {error.strerror or error}", BAD_INPUT)
    except MemoryError as error:
        return _fail(f"there is not enough memory{_detail(error)}. {_MEMORY_ADVICE}", BAD_INPUT)
    except Exception as error:
        if _out_of_memory(error):
            return _fail(f"there is not enough memory{_detail(error)}. {_MEMORY_ADVICE}", BAD_INPUT)
        traceback.print_exc()
        return _fail(
            "this is a defect of the program, not a mistake of yours: please report it", DEFECT
        )


_MEMORY_ADVICE = (
    "Give fewer rows at a time (--batch-size, or a file in parts), float32 in place of float64, "
    "or run it where there is more."
)


def parser(called: Iterable[str] = tuple(VERBS)) -> Parser:
    """Makes the parser of the command line, also for tools such as shtab.

    Args:
        called: The verbs whose arguments are needed. Of the others there is the name alone.
    """
    whole = Parser(
        prog="dms", description="Decide per sample how far each modality deserves trust."
    )
    whole.example = "dms demo --table train.npz"
    version = f"dms-spec {PACKAGE}, specification {EDITION}"
    whole.add_argument("--version", action="version", version=version)
    verbs = whole.add_subparsers(dest="verb", metavar="VERB", required=True)
    wanted = set(called)
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text)
        if name in wanted:
            module = import_module(f"dms_spec.cli.{name}")
            module.add_arguments(verb)
            verb.example = module.EXAMPLE
            verb.complete_files()
            verb.set_defaults(run=module.run, parser=verb)
    return whole


def _run(given: list[str]) -> int:
    called = next((word for word in given if not word.startswith("-")), "")
    try:
        args, extra = parser([called]).parse_known_args(given)
        if extra:
            args.parser.refuse(extra)
    except SystemExit:  # --help has printed
        sys.stdout.flush()
        raise
    try:
        return int(args.run(args))
    except SystemExit as end:  # no verb ends so
        raise PluginError(
            f"a plugin tried to end the program: SystemExit({end.code!r})",
            fix="`dms plugins list` names the plugins; DMS_SPEC_DISABLE_PLUGINS leaves one out.",
        ) from end


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Lets the first SIGTERM or SIGHUP stop the run as Ctrl-C does, so that it cleans up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    old = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            old[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _out_of_memory(error: Exception) -> bool:
    """Says whether a library ran out of memory and says so in its own way, as torch does."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)


def _detail(error: BaseException) -> str:
    text = next(iter(str(error).splitlines()), "")
    return f": {text}" if text else ""


def _drop_stdout() -> None:
    """Sends what is left of the output nowhere: Python would fail on it once more at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: object, code: int) -> int:
    tell_error(message)
    return code


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    note(message)
