"""``dms backends`` lists where schedulers can run on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from dms_spec.cli.printing import say, say_json, say_table
from dms_spec.errors import DMSError
from dms_spec.plugins import get_backend, plugin_records

EXAMPLE = "dms backends"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:
    rows = survey()
    if args.json:
        say_json(rows)
        return 0
    header = ("backend", "status", "devices", "dtypes", "gradients", "from")
    say_table(
        header,
        [
            (
                row["name"],
                row["status"],
                ", ".join(row["devices"]) or "-",
                ", ".join(row["dtypes"]) or "-",
                {True: "yes", False: "no", None: "-"}[row["gradients"]],
                row["distribution"],
            )
            for row in rows
        ],
    )
    for row in rows:
        if row["reason"]:
            say(f"\n{row['name']}: {row['reason']}")
    return 0


def survey() -> list[dict[str, Any]]:
    """Lists each registered backend with its live capabilities, or the reason why it has none."""
    rows = []
    for record in plugin_records():
        if record.kind != "backend":
            continue
        row: dict[str, Any] = {
            "name": record.name,
            "status": record.status,
            "distribution": record.distribution,
            "devices": [],
            "dtypes": [],
            "gradients": None,
            "reason": f"{record.reason}. {record.fix}" if record.reason else "",
        }
        if record.status == "ok":
            try:
                claims = get_backend(record.name).capabilities
            except DMSError as error:
                row |= {"status": "broken", "reason": str(error)}
            else:
                row |= {
                    "devices": list(claims.devices),
                    "dtypes": list(claims.dtypes),
                    "gradients": claims.gradients,
                }
        rows.append(row)
    return rows
