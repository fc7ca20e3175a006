"""``dms plugins list`` lists every plugin, and what is wrong with those that cannot be used."""

from __future__ import annotations

import argparse
import traceback

from dms_spec.cli.printing import say, say_json, say_table
from dms_spec.plugins import discover

_LIST = "list the plugins, the broken ones with the reason and the fix"


EXAMPLE = "dms plugins list"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help=_LIST, description=_LIST)
    listing.add_argument("--json", action="store_true", help="print JSON, for machines")
    listing.add_argument(
        "--traceback", action="store_true", help="show where a broken plugin failed"
    )


def run(args: argparse.Namespace) -> int:
    # Not plugin_records: DMS_SPEC_STRICT_PLUGINS must not keep the list from being shown.

    records = discover()
    if args.json:
        keys = ("kind", "name", "status", "plugin", "distribution", "reason", "fix", "said")
        say_json([{key: getattr(r, key) for key in keys} for r in records])
        return 0
    rows = [(r.kind or "plugin", r.name, r.status, r.distribution) for r in records]
    say_table(("kind", "name", "status", "from"), rows)
    say("\nok: it is there and fits. Nothing was loaded yet: dms doctor does, and says what fails")
    for record in records:
        if record.reason:
            say(f"\n{record.name} ({record.distribution}) is {record.status}: {record.reason}")
            say(record.fix)
            if args.traceback and record.cause is not None:
                say("".join(traceback.format_exception(record.cause)))
    for plugin, said in {r.plugin: r.said for r in records if r.said}.items():
        say(f"\n{plugin} printed while it was loaded: {said!r}")
    return 0
