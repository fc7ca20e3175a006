"""Names the backend. Nothing here imports its library."""

from dms_spec import Descriptor, hookimpl


def _load():
    from my_backend import MyBackend

    return MyBackend()


@hookimpl
def dms_register_backends():
    return [Descriptor(name="mine", load=_load, summary="A backend of my own")]
