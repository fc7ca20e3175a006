"""Runs the command line: ``dms VERB ...``, also ``python -m dms_spec VERB ...``.

A verb is a module of this package with ``add_arguments(parser)`` and ``run(args)``, which returns
the exit code. Only the verb that is called is imported, so that ``dms --help`` is quick. Parsing
imports no plugin, so that ``dms plugins list`` works however broken the plugins are.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module

from dms_spec._version import EDITION, PACKAGE
from dms_spec.cli.codes import BAD_INPUT, DEFECT, GOOD, OUT_OF_TOLERANCE, UNAVAILABLE
from dms_spec.errors import BackendUnavailable, DMSError, PluginError, VerificationError

#: The verbs, each with its help.
VERBS = {
    "schedule": "weigh and fuse a batch of samples",
    "fit": "learn heads and a scheduler from a table of embeddings",
    "predict": "score a table of embeddings with what dms fit learned",
    "robustness": "measure a fitted artifact under noise, conflict and missing modalities",
    "explain": "show why the weights of a sample are what they are",
    "export": "write a scheduler for another runtime, such as onnx, and verify it",
    "verify": "check an exported model again, on the machine where it is to run",
    "check": "run the conformance suite on a backend",
    "report": "draw reports of dms check side by side, as Markdown, HTML or a badge",
    "demo": "weigh four views of real digits, clean, noisy and missing: a table and a picture",
    "backends": "list the backends, what each can do here, and why some cannot",
    "plugins": "list the plugins, the broken ones with the reason and the fix",
    "doctor": "run a worked example on every backend and device, and compare with the oracle",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Returns:
        0 good, 1 not conformant, 2 bad usage or input, 3 a result outside tolerance,
        4 backend unavailable, 70 a defect in the program or in a plugin, with its traceback.
    """
    parser = argparse.ArgumentParser(
        prog="dms", description="Decide per sample how far each modality deserves trust."
    )
    version = f"dms-spec {PACKAGE}, specification {EDITION}"
    parser.add_argument("--version", action="version", version=version)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    given = list(sys.argv[1:] if argv is None else argv)
    called = next((word for word in given if not word.startswith("-")), None)
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text)
        if name == called:
            module = import_module(f"dms_spec.cli.{name}")
            module.add_arguments(verb)
            verb.set_defaults(run=module.run)
    args = parser.parse_args(given)
    # Our warnings inform the user; they do not show a line of source to a developer.
    warnings.showwarning = _show_warning
    try:
        code = int(args.run(args))
        sys.stdout.flush()  # a reader that went away is noticed here, not at exit
        return code
    except (BackendUnavailable, PluginError) as error:
        return _fail(error, UNAVAILABLE)
    except VerificationError as error:
        return _fail(error, OUT_OF_TOLERANCE)
    except DMSError as error:
        return _fail(error, BAD_INPUT)
    except KeyboardInterrupt:
        print("dms: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away, as in `dms backends | head -1`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return GOOD
    except Exception:
        traceback.print_exc()
        print(
            "dms: this is a defect of the program, not a mistake of yours: please report it",
            file=sys.stderr,
        )
        return DEFECT


def _fail(error: DMSError, code: int) -> int:
    print(f"dms: {error}", file=sys.stderr)
    return code


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"dms: note: {message}", file=sys.stderr)
