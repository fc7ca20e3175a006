"""Names the backend. Nothing here imports JAX."""

from dms_spec import Descriptor, hookimpl


def _load():
    from dms_jax.backend import JaxBackend

    return JaxBackend()


@hookimpl
def dms_register_backends():
    return [
        Descriptor(
            name="jax",
            load=_load,
            summary="JAX on the CPU, with gradients",
            requires=("jax", "jaxlib"),
            extra="dms-jax",
        )
    ]
