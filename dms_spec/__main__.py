"""``python -m dms_spec`` is the same command as ``dms``."""

from dms_spec.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
