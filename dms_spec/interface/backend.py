"""Defines what a scheduler and a backend are.

Every public method here is either abstract or final: a backend that could override a helper
could change what it means without anybody noticing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, final

from dms_spec.errors import BackendUnavailable, UnsupportedCapability
from dms_spec.interface.capabilities import Capabilities
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, ModalityBatch, Schedule

if TYPE_CHECKING:  # listing plugins does not pay for NumPy
    from numpy.typing import NDArray

    from dms_spec.artifact import Artifact


class Scheduler(ABC):
    """Weighs and fuses batches by one spec, on one backend and device.

    Example:
        >>> import numpy as np
        >>> from dms_spec import ModalityBatch, SchedulerSpec, get_backend
        >>> spec = SchedulerSpec.preset("static", ("image", "text"))
        >>> schedule = get_backend("numpy").scheduler(spec)
        >>> present = np.array([[True, False]])
        >>> schedule(ModalityBatch(features=np.ones((1, 2, 3)), present=present)).weights
        array([[1., 0.]])
    """

    @property
    @abstractmethod
    def spec(self) -> SchedulerSpec:
        """The spec that this scheduler follows."""

    @abstractmethod
    def schedule(self, batch: ModalityBatch) -> Schedule:
        """Weighs and fuses one batch.

        Args:
            batch: Arrays of the backend's own library, on the scheduler's device.

        Returns:
            Arrays of the same library, on the same device.

        Raises:
            ShapeError: The batch has another number of modalities than the spec.
            MissingInput: The spec needs an array that the batch does not have.
            DTypeError: An array is of another library, or not of a usable dtype.
            UnsupportedCapability: The dtype is a float that this backend does not compute in.
            NonFiniteInput: ``nonfinite="raise"`` and a present modality is not finite.
            NothingPresent: ``strict=True`` and a sample has nothing active.
        """

    @final
    def __call__(self, batch: ModalityBatch) -> Schedule:
        """Does the same as `schedule`."""
        return self.schedule(batch)


class Backend(ABC):
    """Runs schedulers on one array library or runtime.

    If the library has the array API, derive from `dms_spec.ArrayBackend` instead.

    Example:
        >>> import numpy as np
        >>> from dms_spec import get_backend
        >>> backend = get_backend("numpy")
        >>> backend.name, backend.capabilities.devices
        ('numpy', ('cpu',))
        >>> backend.to_numpy(backend.from_numpy(np.ones(2), "cpu"))
        array([1., 1.])
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that it is registered under."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """Says what the backend can do on this machine, now."""

    @abstractmethod
    def from_numpy(self, array: NDArray[Any], device: str) -> Array:
        """Converts a NumPy array to one of the backend's own, on a device, with the same dtype."""

    @abstractmethod
    def to_numpy(self, array: Array) -> NDArray[Any]:
        """Converts one of the backend's arrays to a NumPy array with the same dtype."""

    @abstractmethod
    def _scheduler(
        self, spec: SchedulerSpec, parameters: Mapping[str, Array], device: str
    ) -> Scheduler:
        """Makes a scheduler on a device that `scheduler` has already checked."""

    @final
    def scheduler(
        self,
        spec: SchedulerSpec,
        parameters: Mapping[str, NDArray[Any]] | None = None,
        *,
        device: str | None = None,
    ) -> Scheduler:
        """Binds a spec to this backend.

        Args:
            spec: What to compute.
            parameters: NumPy arrays by full name, as an artifact stores them.
            device: One of the backend's devices; None means its first.

        Raises:
            BackendUnavailable: The device cannot be used on this machine.
            UnsupportedCapability: The policy is not among those that the backend runs.
            UnknownName: The spec names a policy or a signal that nobody registered.
            SpecError: An option or a parameter of the spec does not fit.
        """
        device = self.check_device(device)
        policies = self.capabilities.policies
        if policies is not None and spec.policy not in policies:
            raise UnsupportedCapability(
                f"backend {self.name!r} does not run policy {spec.policy!r}",
                capability=f"policy:{spec.policy}",
                expected=" or ".join(policies),
            )
        moved = {k: self.from_numpy(v, device) for k, v in (parameters or {}).items()}
        return self._scheduler(spec, moved, device)

    @final
    def check_device(self, device: str | None) -> str:
        """The device itself, or the default for None.

        Raises:
            BackendUnavailable: The backend cannot use it on this machine.
        """
        devices = self.capabilities.devices
        if device is None:
            return devices[0]
        if device not in devices:
            raise BackendUnavailable(
                f"backend {self.name!r} cannot use device {device!r} on this machine",
                expected=" or ".join(devices),
                got=device,
                fix="Nothing is moved elsewhere in silence. `dms doctor` says what runs here.",
            )
        return device


class Differentiable(ABC):
    """Takes gradients. A backend that claims the capability ``gradients`` is also this.

    Example:
        >>> import torch
        >>> from dms_spec import get_backend
        >>> slope = get_backend("torch").gradients(
        ...     lambda arrays: (arrays["x"] ** 2).sum(), {"x": torch.ones(2)}
        ... )
        >>> slope["x"]
        tensor([2., 2.])
    """

    @abstractmethod
    def gradients(
        self, function: Callable[[dict[str, Array]], Array], arrays: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Returns the gradient of a scalar function, by array.

        Args:
            function: From floating arrays of the backend, by name, to a scalar array.
            arrays: Where to take the gradient.

        Returns:
            For each array one of its shape and dtype; zeros where the function does not depend
            on it.
        """


class RowPredictor(ABC):
    """Predicts class probabilities from rows of embeddings with a fitted artifact.

    NumPy arrays go in and come out.

    Example:
        >>> import numpy as np
        >>> from dms_spec import get_backend, load_artifact
        >>> rows = get_backend("numpy").row_predictor(load_artifact("model"), "cpu")
        >>> image, text = np.zeros((5, 3), np.float32), np.zeros((5, 2), np.float32)
        >>> present = np.ones((5, 2), dtype=bool)
        >>> schedule, probabilities = rows.predict({"image": image, "text": text}, present)
        >>> probabilities.shape
        (5, 2)
    """

    @abstractmethod
    def predict(
        self, embeddings: Mapping[str, NDArray[Any]], present: NDArray[Any]
    ) -> tuple[Schedule, NDArray[Any]]:
        """Runs the heads, the scheduler and the class probabilities.

        Args:
            embeddings: Floating ``[B, D_m]``, by modality, in the order of the spec. Where a
                modality is absent they may hold anything.
            present: bool ``[B, M]``.

        Returns:
            The schedule, and class probabilities ``[B, C]``: where nothing is active, the class
            frequencies of the training rows.

        Raises:
            ShapeError: Sizes disagree, or differ from the artifact's.
            DTypeError, UnsupportedCapability: The embeddings have no dtype that the backend takes.
            NonFiniteInput, NothingPresent: As the spec asks.
        """

    @abstractmethod
    def unimodal(
        self, embeddings: Mapping[str, NDArray[Any]], present: NDArray[Any]
    ) -> NDArray[Any]:
        """Predicts class probabilities of each modality alone, ``[B, M, C]``, equal where absent.

        Args and errors are those of `predict`, without the spec's refusals.
        """


class Predictive(ABC):
    """Runs a fitted artifact whole: heads, scheduler and class probabilities.

    Every `dms_spec.ArrayBackend` does. Another backend may, such as one that runs exported graphs.

    Example:
        >>> from dms_spec import Predictive, get_backend
        >>> isinstance(get_backend("numpy"), Predictive)
        True
    """

    @abstractmethod
    def row_predictor(self, artifact: Artifact, device: str) -> RowPredictor:
        """Binds a fitted artifact to a device, which `Backend.check_device` has checked.

        Raises:
            ArtifactError: The artifact has no heads, or its model does not fit its parameters.
            UnsupportedCapability: The policy is not among those that the backend runs.
            SpecError, UnknownName: The spec cannot be followed.
        """
