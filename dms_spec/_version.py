"""Holds the four version numbers of DMS-V-001, kept apart on purpose. Data only."""

from __future__ import annotations

#: The package (semantic versioning).
PACKAGE = "0.1.0"

#: The specification edition that this package implements by default.
EDITION = "2026.11"

#: Every edition that this package can still run.
SUPPORTED_EDITIONS: tuple[str, ...] = ("2026.11",)

#: The layout of an artifact folder. Newer code reads older numbers, never the reverse.
ARTIFACT_FORMAT = 1

#: The contract between the host and a plugin's descriptors.
PLUGIN_ABI = 1
