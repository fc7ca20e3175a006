"""Defines what an extension is, and what a backend claims."""
