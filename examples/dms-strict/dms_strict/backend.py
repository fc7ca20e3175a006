"""Says which namespace, which arrays and which claims the backend has."""

import array_api_strict as xp
import numpy as np

from dms_spec import ArrayBackend, Capabilities, Namespace
from dms_spec.errors import UnsupportedCapability

_DTYPES = ("float64", "float32")
_Array = type(xp.asarray(0.0))


class StrictBackend(ArrayBackend):
    name = "strict"
    capabilities = Capabilities(dtypes=_DTYPES)

    def namespace(self, device):
        # NumPy computes underneath, and warns about overflows that the equations expect.
        return Namespace.of(xp, _Array, guard=lambda: np.errstate(over="ignore", invalid="ignore"))

    def from_numpy(self, array, device):
        name = array.dtype.name
        if name in ("float16", "bfloat16"):  # the standard has no half precision
            raise UnsupportedCapability(
                f"array-api-strict has no {name}",
                capability=f"dtype:{name}",
                expected=" or ".join(_DTYPES),
                got=name,
                fix="Cast the array to float32.",
            )
        return xp.asarray(array)

    def to_numpy(self, array):
        return np.asarray(array)
