"""Turns a spec into a schedule: resolves names, runs the pipeline, and checks what goes in and
comes out.
"""
