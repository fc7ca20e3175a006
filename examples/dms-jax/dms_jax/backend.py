"""Says which namespace, which arrays and which claims the backend has, and takes gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dms_spec import ArrayBackend, Capabilities, Differentiable, Namespace
from dms_spec.equations import primitives
from dms_spec.errors import UnsupportedCapability


def _compiled(function, *static):
    """Compiles a plain primitive as one XLA program. JAX would compile each operation in it."""
    return jax.jit(partial(function, jnp), static_argnames=static)


def _norm(vectors):
    squares = jnp.sum(vectors * vectors, axis=-1)
    nonzero = squares > 0
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, squares, 1)), 0)


@jax.jit
def _cosine(left, right):
    """Computes the plain form. JAX's own norm has the slope NaN at a zero vector, not 0."""
    norms = _norm(left) * _norm(right)
    defined = norms > 0
    dot = jnp.where(defined, jnp.sum(left * right, axis=-1), 0)
    return jnp.clip(dot / jnp.where(defined, norms, 1), -1, 1)


# Made once, because the compiled programs belong to these functions.
_NAMESPACE = Namespace.of(
    jnp,
    jax.Array,
    softmax=_compiled(primitives.softmax, "axis"),
    logsumexp=_compiled(primitives.logsumexp, "axis"),
    log_softmax=_compiled(primitives.log_softmax, "axis"),
    entropy=_compiled(primitives.entropy),
    variance_over_passes=_compiled(primitives.variance_over_passes),
    masked_softmax=_compiled(primitives.masked_softmax),
    usable=_compiled(primitives.usable),
    select=_compiled(primitives.select),
    cosine=_cosine,
    stop_gradient=jax.lax.stop_gradient,
)


class JaxBackend(ArrayBackend, Differentiable):
    name = "jax"

    @property
    def capabilities(self):
        # float64 is a setting of the process, and the user's to make. To switch it on here would
        # change what jnp.ones(3) is in code that knows nothing of this backend.
        wide = ("float64",) if jax.config.jax_enable_x64 else ()
        return Capabilities(
            dtypes=(*wide, "float32", "float16", "bfloat16"),
            gradients=True,
            notes=("XLA takes numbers below the smallest normal one for 0",),
        )

    def namespace(self, device):
        return _NAMESPACE

    def from_numpy(self, array, device):
        moved = jnp.array(array, device=jax.devices(device)[0])
        if moved.dtype != array.dtype:  # without 64 bits JAX halves them in silence
            raise UnsupportedCapability(
                f"JAX has no {array.dtype} in this process",
                capability=f"dtype:{array.dtype}",
                expected=" or ".join(self.capabilities.dtypes),
                got=f"{array.dtype}",
                fix="Cast the array, or set JAX_ENABLE_X64=1 before Python starts.",
            )
        return moved

    def to_numpy(self, array):
        return np.asarray(array)

    def gradients(self, function, arrays):
        return jax.grad(function)(dict(arrays))
