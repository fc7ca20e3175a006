"""The worst error of each output, in eps times scale, on every backend and dtype.

``python benchmarks/errors.py [--examples N]``. The clause DMS-N-001 allows 8.
"""

from __future__ import annotations

import argparse
import warnings

from dms_spec.conformance.registry import Context, checks
from dms_spec.errors import DMSWarning
from dms_spec.plugins import available, get_backend


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=1000, help="cases for each property")
    args = parser.parse_args()
    warnings.simplefilter("ignore", DMSWarning)
    columns = {}
    for name in available("backend"):
        backend = get_backend(name)
        for dtype in backend.capabilities.dtypes:
            context = Context(backend=backend, device="cpu", dtype=dtype, examples=args.examples)
            for check in checks():
                if check.run.__module__.endswith((".values", ".losses")):
                    check.run(context)
            columns[f"{name} {dtype}"] = context.worst
    outputs = sorted({output for worst in columns.values() for output in worst})
    print("".join(f"{heading:>18}" for heading in ("", *columns)))
    for output in outputs:
        cells = (f"{worst.get(output, 0.0):.2f}" for worst in columns.values())
        print("".join(f"{cell:>18}" for cell in (output, *cells)))


if __name__ == "__main__":
    main()
