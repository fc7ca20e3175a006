"""Names the backend. Nothing here imports array-api-strict."""

from dms_spec import Descriptor, hookimpl


def _load():
    from dms_strict.backend import StrictBackend

    return StrictBackend()


@hookimpl
def dms_register_backends():
    return [
        Descriptor(
            name="strict",
            load=_load,
            summary="array-api-strict: refuses what the array API does not promise",
            requires=("array-api-strict",),
            extra="dms-strict",
        )
    ]
