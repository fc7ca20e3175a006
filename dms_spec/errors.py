"""Defines every error that dms-spec raises on purpose.

Each class is also the builtin that a caller would expect to catch, and each message says what
happened, what was expected, what came, and how to fix it (DMS-E-001, DMS-E-002).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from dms_spec.markup import shown_lines


class DMSError(Exception):
    """The base of all errors that dms-spec raises.

    Args:
        what: What happened, as the beginning of a sentence.
        expected: What would have been right.
        got: What came instead.
        fix: How to fix it, as a sentence.

    Example:
        >>> from dms_spec import DMSError, SchedulerSpec
        >>> try:
        ...     SchedulerSpec.preset("papr", ("image", "text"))
        ... except DMSError as error:
        ...     print(error.fix)
        Did you mean 'paper'?
    """

    def __init__(self, what: str, *, expected: str = "", got: str = "", fix: str = "") -> None:
        # Names and messages come from anywhere, and a part of a million characters says nothing.
        what, expected, got, fix = (shown_lines(part, 1_000) for part in (what, expected, got, fix))
        self.what, self.expected, self.got, self.fix = what, expected, got, fix
        middle = ", ".join(
            part for part in (expected and f"expected {expected}", got and f"got {got}") if part
        )
        message = f"{what}: {middle}" if middle else what
        super().__init__(f"{message}. {fix}" if fix else message)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders in data loaders; keyword arguments do not survive
        # the default protocol.
        return _rebuild, (type(self), self.what, self.expected, self.got, self.fix)


def _rebuild(kind: type[DMSError], what: str, expected: str, got: str, fix: str) -> DMSError:
    return kind(what, expected=expected, got=got, fix=fix)


class ShapeError(DMSError, ValueError):
    """An array has the wrong rank, or two arrays disagree about a size."""


class DTypeError(DMSError, TypeError):
    """An array has a dtype that its role does not allow, or is of another library."""


class MissingInput(DMSError, ValueError):
    """The spec needs an array, and the batch does not have it."""


class NonFiniteInput(DMSError, ValueError):
    """The input has NaN or Inf, and the spec says "raise"; or a score is not finite."""


class NothingPresent(DMSError, ValueError):
    """A sample has no active modality, and the spec says ``strict=True``."""


class SpecError(DMSError, ValueError):
    """A scheduler specification is malformed or contradicts itself."""


class UnknownName(DMSError, LookupError):
    """No backend, policy, signal, exporter, key or option has this name."""


class UnsupportedCapability(DMSError, NotImplementedError):
    """The backend does not support what was asked for, and says so.

    Args:
        capability: The capability's name, such as ``"dtype:bfloat16"``.
    """

    def __init__(
        self, what: str, *, capability: str = "", expected: str = "", got: str = "", fix: str = ""
    ) -> None:
        super().__init__(what, expected=expected, got=got, fix=fix)
        self.capability = capability

    def __reduce__(self) -> tuple[object, ...]:
        return (
            _rebuild_unsupported,
            (self.what, self.capability, self.expected, self.got, self.fix),
        )


def _rebuild_unsupported(
    what: str, capability: str, expected: str, got: str, fix: str
) -> UnsupportedCapability:
    return UnsupportedCapability(what, capability=capability, expected=expected, got=got, fix=fix)


class BackendUnavailable(DMSError, RuntimeError):
    """The backend or the device that was asked for cannot run on this machine."""


class PluginError(DMSError, RuntimeError):
    """A plugin was asked for by name, and is broken, duplicate, invalid or outdated."""


class ArtifactError(DMSError, ValueError):
    """An artifact folder is incomplete, damaged, or newer than this package."""


class VerificationError(DMSError, ValueError):
    """An exported model is not what it says it is, or computes something else than its spec."""


class FileError(DMSError, ValueError):
    """A file with arrays cannot be read or written."""


class DMSWarning(UserWarning):
    """Warns of something legal that is weaker than it looks, such as a signal that cancels out.

    Example:
        >>> import warnings
        >>> from dms_spec import DMSWarning
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", DMSWarning)  # what is weaker than it looks raises
    """


# Beyond this product of lengths, nobody has mistyped a name.
_MOST_COMPARED = 10_000_000
# So many files of a folder are looked at.
_MOST_FILES = 1_000


def closest(name: str, known: Iterable[str]) -> str:
    """Says which known name is meant, or lists them all."""
    names = sorted(known)
    # Comparing takes time for each character of each name.
    few = len(name) * sum(map(len, names)) < _MOST_COMPARED
    close = get_close_matches(name, names, n=1, cutoff=0.6) if few else []
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(names)}." if names else "There are none."


def install_hint(*requirements: str, option: str = "") -> str:
    """Says how to install something: the one place that knows where dms-spec comes from.

    It is on no package index yet, so its extras are installed from a checkout.

    Args:
        requirements: What pip should install, such as ``"dms-spec[torch]"`` or ``"scipy"``.
        option: An option for pip, such as ``"--upgrade"``.
    """
    start = f"pip install {option}".strip()
    name, bracket, extras = requirements[0].partition("[")
    if name == "dms-spec":
        return f"In a checkout of dms-spec, run {start} '.{bracket}{extras}'"
    return f"Run {start} " + " ".join(f"'{one}'" for one in requirements)


def nearest_path(path: Path | str) -> str:
    """Says which file beside a path that is not there is meant; empty if none is near."""
    path = Path(path)
    try:
        others = [
            path.with_name(other.name) for other in islice(path.parent.iterdir(), _MOST_FILES)
        ]
    except (OSError, ValueError):
        return ""
    hint = closest(str(path), map(str, others))
    return hint if hint.startswith("Did") else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """Makes an `UnknownName` that names the closest known name."""
    return UnknownName(f"unknown {kind} {name!r}", fix=closest(name, known))


@contextmanager
def counting_from(start: int) -> Iterator[None]:
    """Says in an error that its row is counted from a later row than the first."""
    try:
        yield
    except DMSError as error:
        if start:
            error.args = (f"from row {start} on: {error}",)
        raise
