"""Shows how far long work is: a bar on a terminal, and now and then a line in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any, Self, TypeVar

from dms_spec.cli.printing import tell

#: Seconds between two lines, where stderr is no terminal. Short work writes none.
EVERY = 30.0

Item = TypeVar("Item")


class Bar:
    """Counts the steps of some work, stage after stage. On a terminal it needs tqdm."""

    def __init__(self) -> None:
        self._what = self._unit = ""
        self._total = self._done = 0
        self._last = monotonic()
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def begin(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """Begins a stage.

        Args:
            what: What is done, such as "learning heads".
            total: How many steps there are.
            unit: What a step is, in the singular.
            done: How many are done already.
        """
        self.__exit__()
        self._what, self._total, self._unit, self._done = what, total, unit, done
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(desc=what, total=total, initial=done, unit=unit, dynamic_ncols=True)

    def step(self, detail: str = "", steps: int = 1) -> None:
        """Counts some steps, and says what came of them, each number with its name."""
        self._done += steps
        if self._bar is not None:
            self._bar.set_postfix_str(detail, refresh=False)
            self._bar.update(steps)
        elif monotonic() - self._last >= EVERY:
            self._last = monotonic()
            came = f", {detail}" if detail else ""
            tell(f"{self._what}: {self._unit} {self._done} of {self._total}{came}")

    def over(
        self,
        items: Iterable[Item],
        what: str,
        unit: str,
        name: Callable[[Item], str] = lambda _: "",
    ) -> Iterator[Item]:
        """Goes through some items, a step for each, and shows the name of the one that is on."""
        known = list(items)
        self.begin(what, len(known), unit)
        with self:
            for item in known:
                if self._bar is not None:
                    self._bar.set_postfix_str(name(item))
                yield item
                self.step(name(item))
