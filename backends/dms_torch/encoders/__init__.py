"""Encoders of libraries on torch, for `dms embed`."""
