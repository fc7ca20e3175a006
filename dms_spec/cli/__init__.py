"""The command line: ``dms VERB ...``, also ``python -m dms_spec VERB ...``.

A verb is a module of this package with ``HELP``, ``add_arguments(parser)`` and ``run(args)``,
which returns the exit code. Only the verb that is called is run; parsing imports no plugin, so
that ``dms --help`` and ``dms plugins list`` work however broken the plugins are.
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
from dms_spec.errors import BackendUnavailable, DMSError, PluginError, VerificationError

GOOD, NOT_CONFORMANT, BAD_INPUT, OUT_OF_TOLERANCE, UNAVAILABLE = range(5)
DEFECT = 70  # the usual number for "software"; Python's own would be 1, which is taken

VERBS = (
    "schedule",
    "fit",
    "predict",
    "robustness",
    "explain",
    "export",
    "verify",
    "check",
    "report",
    "demo",
    "backends",
    "plugins",
    "doctor",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

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
    for name in VERBS:
        module = import_module(f"dms_spec.cli.{name}")
        verb = verbs.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    # A warning of ours is news to the user, not a line of source to a developer.
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
        print("dms: this is a defect, not your doing: please report it", file=sys.stderr)
        return DEFECT


def _fail(error: DMSError, code: int) -> int:
    print(f"dms: {error}", file=sys.stderr)
    return code


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"dms: note: {message}", file=sys.stderr)
