"""Registers a signal: how far the most likely class is ahead of the next."""

from dms_spec import Descriptor, hookimpl


def margin(ns, evidence):
    """p(best) - p(second best), [B, M]."""
    p = ns.xp.sort(ns.softmax(evidence.logits), axis=-1)
    return p[..., -1] - p[..., -2]


def _load():
    from dms_spec import Signal

    return Signal(
        name="margin",
        function=margin,
        needs=("logits",),
        direction=1,
        source="a tutorial of dms-spec",
        bounds="[0, 1]",
    )


@hookimpl
def dms_register_signals():
    return [Descriptor(name="margin", load=_load, summary="lead of the most likely class")]
