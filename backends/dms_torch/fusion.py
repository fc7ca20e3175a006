"""Holds `Fusion`: a scheduler as a module, between encoders and whatever comes after them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dms_spec.artifact import Artifact
from dms_spec.engine.pipeline import compute
from dms_spec.engine.resolve import Resolved, resolve
from dms_spec.engine.scheduler import check_batch, run
from dms_spec.engine.warning import warn
from dms_spec.equations.namespace import Namespace
from dms_spec.errors import (
    MissingInput,
    ShapeError,
    SpecError,
    UnsupportedCapability,
    closest,
)
from dms_spec.plugins import get_policy
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch
from dms_torch import paths
from dms_torch.backend import TorchBackend, torch_namespace
from dms_torch.looking import in_reentrant_checkpoint, values_are_hidden
from dms_torch.output import FusionOutput, InCheckpoint

#: One tensor for all modalities, or one for each by name; None or no entry where it is missing.
Named = Tensor | Mapping[str, Tensor | None]


class Fusion(nn.Module):
    """Schedules and fuses as a module; learns where its policy has parameters.

    Args:
        spec: What to compute. Its modalities' names are the keys of named inputs.
        parameters: Arrays by full name, as an artifact stores them; what a learned policy needs
            and is not given starts at the rule.
        width: D, where the policy's parameters depend on it (co-attention).
        seed: Of the parameters that start at random.
        path: Where to compute: ``"plain"`` PyTorch, ``"numba"`` or ``"triton"``. None: what the
            variable ``DMS_TORCH_PATH`` says, or the fastest that can run.

    Attributes:
        path: Where the last batch was computed; None before the first.

    Raises:
        SpecError, UnknownName, ShapeError: The spec or the parameters do not fit.
        BackendUnavailable: The path that was asked for needs what is not installed.

    Example:
        >>> import torch
        >>> from dms_spec import SchedulerSpec
        >>> from dms_torch import Fusion
        >>> fusion = Fusion(SchedulerSpec.preset("static", ("image", "text")))
        >>> output = fusion(features=torch.ones(4, 2, 8))
        >>> output.fused.shape, output.weights[0]
        (torch.Size([4, 8]), tensor([0.5000, 0.5000]))
    """

    path: str | None

    def __init__(
        self,
        spec: SchedulerSpec,
        parameters: Mapping[str, Any] | None = None,
        *,
        width: int | None = None,
        seed: int = 0,
        path: str | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self._asked, self.path = paths.requested(path), None
        given = {name: torch.as_tensor(array) for name, array in (parameters or {}).items()}
        given = _initial(spec, width, seed, given) | given
        # A parameter's name has no dots, so the artifact's names are kept beside.
        self._names = {name: name.replace(".", "/") for name in given}
        for name, key in self._names.items():
            tensor = given[name].detach().clone()
            if name.startswith("policy.") or name == "fusion.redundancy":
                # A scalar has one entry here: FSDP shards an axis.
                self.register_parameter(key, nn.Parameter(tensor.reshape(tensor.shape or (1,))))
            else:
                self.register_buffer(key, tensor)
        self._resolved = resolve(spec, given)
        self._capabilities = TorchBackend().capabilities
        warn(self._resolved.notes(), stacklevel=2)

    def _live(self) -> Resolved:
        """Resolves the spec with the parameters as they are now."""
        live = {
            name: getattr(self, self._names[name]).reshape(tensor.shape)
            for name, tensor in self._resolved.parameters.items()
        }
        return replace(self._resolved, parameters=live)

    def namespace(self, device: torch.device) -> Namespace:
        """Makes the namespace on a device, with the path that was asked for."""
        return torch_namespace(device.type, self._asked)

    def shares_space(self) -> bool:
        """Says whether anything relates the features of different modalities to each other."""
        return self._resolved.shares_space()

    def learned(self) -> dict[str, Tensor]:
        """Gives the parameters that learn, by the module's names, in the shapes of an artifact."""
        live, own = self._live().parameters, dict(self.named_parameters())
        return {key: live[name] for name, key in self._names.items() if key in own}

    def forward(
        self,
        features: Named | None = None,
        logits: Named | None = None,
        mc_logits: Named | None = None,
        present: Named | None = None,
    ) -> FusionOutput:
        """Weighs and fuses.

        Args:
            features: ``[B, M, D]``, or by name ``[B, D]``.
            logits: ``[B, M, C]``, or by name ``[B, C]``.
            mc_logits: ``[T, B, M, C]``, or by name ``[T, B, C]``.
            present: bool ``[B, M]``, or by name ``[B]``. A name with None, or without an entry,
                in any of the others is absent for the whole batch.

        Raises:
            ShapeError, MissingInput, DTypeError, UnsupportedCapability: The batch does not fit.
            BackendUnavailable: The path that was asked for cannot run here.
            NonFiniteInput, NothingPresent: As the spec asks, and in eager mode only: a compiled
                graph and vmap cannot look at values, and refuse such a spec instead.
        """
        nan, mask = float("nan"), self._stacked("present", present, True, axis=-1)
        batch = ModalityBatch(
            features=self._stacked("features", features, nan),
            logits=self._stacked("logits", logits, nan),
            mc_logits=self._stacked("mc_logits", mc_logits, nan),
            present=self._there(mask, features, logits, mc_logits),
        )
        anything = batch.features if batch.features is not None else batch.logits
        ns, resolved = self.namespace(anything.device), self._live()
        check_batch(ns, resolved, self._capabilities, batch)
        self.path = paths.choose(self._asked, *batch.arrays().values())
        if not values_are_hidden():
            result = run(ns, resolved, batch)
        elif self.spec.strict or self.spec.nonfinite == "raise":
            # A builtin error, because the compiler cannot trace the making of one of ours.
            raise NotImplementedError(
                'strict=True and nonfinite="raise" look at values, which a compiled graph and '
                "vmap cannot"
            )
        else:
            with ns.guard():
                result = compute(ns, resolved, batch)
        kind = InCheckpoint if self.training and in_reentrant_checkpoint() else FusionOutput
        return kind(
            fused=result.fused,
            weights=result.weights,
            scores=result.scores,
            active=result.active,
            signals=dict(result.signals),
            terms=dict(result.terms),
            soundness=result.soundness,
            notes=result.notes,
        )

    def _stacked(
        self, role: str, given: Named | None, filler: float, axis: int = -2
    ) -> Tensor | None:
        """Stacks named tensors along an axis M in the spec's order, with a filler where there is
        none.
        """
        if not isinstance(given, Mapping):
            return given
        self._check_names(role, given)
        some = {name: tensor for name, tensor in given.items() if tensor is not None}
        if not some:
            raise MissingInput(f"{role} has no tensor for any modality")
        first = next(iter(some.values()))
        # Compared, not hashed: a hash freezes a size that a tracer keeps symbolic.
        if any(tensor.shape != first.shape for tensor in some.values()):
            raise ShapeError(
                f"{role} of the modalities differ in shape",
                expected="one shape for all",
                got=", ".join(f"{name} {list(tensor.shape)}" for name, tensor in some.items()),
                fix="Project the modalities to a common width first (DMS heads do).",
            )
        empty = torch.full_like(first, filler)
        return torch.stack([some.get(name, empty) for name in self.spec.modalities], dim=axis)

    def _there(self, present: Tensor | None, *given: Named | None) -> Tensor | None:
        """Takes out of the presence mask the modalities that named inputs do not have at all."""
        named = [part for part in given if isinstance(part, Mapping)]
        whole = [all(p.get(name) is not None for p in named) for name in self.spec.modalities]
        if all(whole) or (present is not None and present.dtype != torch.bool):
            return present  # of another dtype, it is refused
        some = next(t for p in named for t in p.values() if t is not None)
        here = torch.tensor(whole, device=some.device).expand(some.shape[-2], -1)
        return here if present is None else present & here

    def _check_names(self, role: str, given: Mapping[str, Any]) -> None:
        for name in given:
            if name not in self.spec.modalities:
                raise SpecError(
                    f"{role} has a modality {name!r} that the spec does not name",
                    fix=closest(name, self.spec.modalities),
                )

    def _replicate_for_data_parallel(self) -> Fusion:
        raise UnsupportedCapability(
            "Fusion does not run in torch.nn.DataParallel, which cannot gather notes",
            capability="DataParallel",
            fix="Use torch.nn.parallel.DistributedDataParallel, as PyTorch recommends.",
        )

    def artifact(self) -> Artifact:
        """Gives the spec and the parameters as they are now, for `dms_spec.save_artifact`."""
        backend = TorchBackend()
        arrays = {n: backend.to_numpy(array) for n, array in self._live().parameters.items()}
        return Artifact(spec=self.spec, parameters=arrays)


def _initial(
    spec: SchedulerSpec, width: int | None, seed: int, given: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Gives what a learned policy starts with, and nothing for one that needs no parameters."""
    policy = get_policy(spec.policy)
    declared = [f"policy.{name}" for name in policy.parameters]
    if set(declared) <= set(given):  # in the order of the policy's start, whatever the file's order
        return {name: given[name] for name in declared}
    if policy.initial is None:
        return {}
    # A rule over signals can always start. A policy that needs no parameters gets none unasked.
    if policy.parameters_optional and not policy.uses_signals and width is None:
        return {}
    sizes = {"M": len(spec.modalities), "K": len(spec.coefficients)}
    if width is not None:
        sizes["D"] = width
    start = policy.initial(spec, sizes, seed=seed, **spec.policy_options)
    return {f"policy.{name}": torch.from_numpy(array) for name, array in start.items()}
