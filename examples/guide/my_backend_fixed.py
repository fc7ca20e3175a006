"""Says which namespace, which arrays and which claims my backend has."""

import array_api_compat.numpy as xp  # the library; NumPy stands in for yours
import numpy as np

from dms_spec import ArrayBackend, Capabilities, Namespace


def softmax(logits, axis=-1):
    """Computes the softmax in my own way: a primitive may be faster, never different."""
    e = xp.exp(logits - xp.max(logits, axis=axis, keepdims=True))
    return e / xp.sum(e, axis=axis, keepdims=True)


class MyBackend(ArrayBackend):
    name = "mine"

    # What is claimed is tested; what is not has to be refused.
    capabilities = Capabilities(dtypes=("float64", "float32"), devices=("cpu",))

    def namespace(self, device):
        """Names the library, the type of its arrays, and what it does in its own way."""
        return Namespace.of(xp, np.ndarray, softmax=softmax, guard=quiet)

    def from_numpy(self, array, device):
        """Converts to one of the library's arrays, on the device, with the same dtype."""
        return array

    def to_numpy(self, array):
        """Converts back."""
        return array


def quiet():
    """Silences NumPy's warnings about overflows that the equations expect."""
    return np.errstate(over="ignore", invalid="ignore")
