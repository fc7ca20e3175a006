"""Holds `FusionModel`: encoders of any kind, heads, a scheduler, and class predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dms_spec.artifact import Artifact
from dms_spec.engine.fitted import FittedHeads
from dms_spec.engine.probabilities import joint_said, schedule_probabilities
from dms_spec.equations.heads import class_scores, draw_masks, head_inputs, heads_of_inputs
from dms_spec.equations.joint import has_joint
from dms_spec.equations.namespace import Namespace
from dms_spec.errors import DTypeError, MissingInput, ShapeError, SpecError, closest
from dms_spec.spec import SchedulerSpec
from dms_torch.backend import TorchBackend
from dms_torch.fusion import Fusion, Named
from dms_torch.output import FusionOutput, InCheckpoint, ModelInCheckpoint, ModelOutput


class FusionModel(nn.Module):
    """Runs the encoders of what is present, weighs and fuses what they give, and predicts a class.

    An encoder sees only the rows that have its modality, and is not called when no row has it. The
    heads are those of an artifact, equation E19: a projection and a classifier for each modality.

    Args:
        encoders: A module for each modality of the spec. It returns ``[n, D_m]``, floating.
        spec: What the scheduler computes.
        widths: D_m of each modality, by name.
        width: D, the width of the common space that heads project into. None: there is none, and
            features are what the encoders return, scaled. Then nothing may compare features.
        classes: C, how many classes there are.
        passes: T, how many passes of Monte-Carlo dropout the heads make. Their masks are drawn
            once and saved with the model, so that a row's passes do not depend on its batch.
        dropout: The rate in [0, 1) at which those masks drop an input of a head.
        parameters: What scheduler and heads have learned, by full name, as an artifact holds it.
            What is not given starts as torch starts it.
        seed: Of the masks, and of a policy that starts at random.

    Raises:
        SpecError: Encoders or widths are not those of the spec's modalities, a number is out of
            range, features are compared without a common space, or nothing has a parameter of
            that name.
        UnknownName, ShapeError: The spec or the parameters do not fit.
        KeyError: A modality cannot be a module's name: it has a dot, or torch uses it already.

    Example:
        >>> import torch
        >>> from dms_spec import SchedulerSpec
        >>> from dms_torch import FusionModel
        >>> encoders = {"image": torch.nn.Linear(20, 8), "text": torch.nn.EmbeddingBag(100, 12)}
        >>> widths = {"image": 8, "text": 12}  # what they return
        >>> spec = SchedulerSpec.preset("static", ("image", "text"))
        >>> model = FusionModel(encoders, spec, widths=widths, width=16, classes=5)
        >>> output = model({"image": torch.randn(4, 20)})  # no text in this batch
        >>> output.probabilities.shape, output.weights[0]
        (torch.Size([4, 5]), tensor([1., 0.], grad_fn=<SelectBackward0>))
    """

    prior: Tensor

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        spec: SchedulerSpec,
        *,
        widths: Mapping[str, int],
        width: int | None,
        classes: int,
        passes: int = 0,
        dropout: float = 0.1,
        parameters: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for what, given in (("encoders", encoders), ("widths", widths)):
            if set(given) != set(spec.modalities):
                raise SpecError(
                    f"the {what} are not those of the spec's modalities",
                    expected=", ".join(spec.modalities),
                    got=", ".join(given) or "none",
                )
        for what, number in (("width", width), ("number of classes", classes)):
            if number is not None and number < 1:
                raise SpecError(
                    f"the {what} is out of range", expected="1 or more", got=f"{number}"
                )
        self.spec, self.classes, self.dropout, self.passes = spec, classes, dropout, passes
        #: What a class is called in an artifact; from 0 unless an artifact said otherwise.
        self.labels: list[Any] = list(range(classes))
        self.widths = {name: widths[name] for name in spec.modalities}
        self.encoders = nn.ModuleDict({name: encoders[name] for name in spec.modalities})
        learned = Artifact(spec=spec, parameters=dict(parameters or {}))
        own = learned.scheduler_parameters
        self.fusion = Fusion(spec, own, width=width, seed=seed)
        if width is None and self.fusion.shares_space():
            raise SpecError(
                "features of different modalities are compared or fused, and the heads project "
                "into no common space",
                expected="a width",
                got="None",
            )
        self._outputs = ("features", "logits", *(("mc_logits",) if passes else ()))
        self.register_buffer("prior", torch.full((classes,), 1 / classes))
        # A parameter's name has no dots, so the artifact's names are kept beside.
        self._names: dict[str, str] = {}
        self._given = {
            name: torch.as_tensor(array)
            for name, array in learned.parameters.items()
            if name not in own
        }
        masks = draw_masks(self.widths, passes, dropout, seed) if passes else {}
        for name, size in self.widths.items():
            if width is not None:
                self._linear(f"heads.{name}.projection", size, width)
            self._linear(f"heads.{name}.classifier", size, classes)
            self._constant(f"heads.{name}.scale.zero", torch.zeros(size))
            self._constant(f"heads.{name}.scale.unit", torch.ones(size))
            self._constant(f"heads.{name}.temperature", torch.ones(()))
            if passes:
                self._constant(f"heads.{name}.dropout.masks", torch.from_numpy(masks[name]))
        if spec.fusion == "feature" and width is not None:
            self._linear("head", width, classes)
        if spec.fusion == "evidence" and has_joint(self._given):
            self._constant("joint.share", torch.ones(()))
            self._learned("joint.bias", torch.zeros(classes))
            for name, size in self.widths.items():
                self._learned(f"joint.{name}.weight", torch.zeros(size, classes))
        if self._given:
            name = next(iter(self._given))
            raise SpecError(f"no head has a parameter {name!r}", fix=closest(name, self._names))
        del self._given

    @classmethod
    def from_artifact(
        cls, encoders: Mapping[str, nn.Module], artifact: Artifact, *, seed: int = 0
    ) -> Self:
        """Puts encoders before a fitted artifact, as ``dms fit`` writes it.

        The module then computes from raw inputs what the artifact predicts from embeddings.

        Args:
            encoders: The modules whose embeddings the artifact was fitted on.
            artifact: With heads.
            seed: Nothing is drawn with it, unless the policy has parameters that are not given.

        Raises:
            ArtifactError: The artifact has no heads, or they do not fit its spec.
            SpecError: Encoders are not those of the spec's modalities.
        """
        fitted = FittedHeads(artifact)
        first = f"heads.{artifact.spec.modalities[0]}"
        bias = fitted.heads.get(f"{first}.projection.bias")
        model = cls(
            encoders,
            artifact.spec,
            widths=fitted.widths,
            width=None if bias is None else len(bias),
            classes=len(fitted.classes),
            passes=fitted.passes if f"{first}.dropout.masks" in fitted.heads else 0,
            dropout=fitted.dropout,
            parameters=artifact.parameters,
            seed=seed,
        )
        model.labels = fitted.classes.tolist()
        model.prior = torch.as_tensor(fitted.prior, dtype=torch.float32)
        return model

    def artifact(self) -> Artifact:
        """Gives scheduler and heads as they are now, for `dms_spec.save_artifact`; no encoders.

        Every backend predicts with it from the encoders' embeddings, and every exporter takes it.
        """
        backend = TorchBackend()
        own = {name: backend.to_numpy(x) for name, x in self._parameters_by_name().items()}
        model = {
            "classes": self.labels,
            "prior": [float(p) for p in self.prior.double() / self.prior.double().sum()],
            "dropout": self.dropout,
            "passes": self.passes,
        }
        scheduler = self.fusion.artifact()
        return Artifact(spec=self.spec, parameters={**scheduler.parameters, **own}, model=model)

    def _linear(self, name: str, inputs: int, outputs: int) -> None:
        """Registers ``name.weight`` [inputs, outputs] and ``name.bias``, as torch starts them."""
        start = nn.Linear(inputs, outputs)
        self._learned(f"{name}.weight", start.weight.T.contiguous())
        self._learned(f"{name}.bias", start.bias)

    def _learned(self, name: str, start: Tensor) -> None:
        self.register_parameter(self._key(name), nn.Parameter(self._start(name, start)))

    def _constant(self, name: str, start: Tensor) -> None:
        self.register_buffer(self._key(name), self._start(name, start))

    def _key(self, name: str) -> str:
        key = self._names[name] = name.replace(".", "/")
        return key

    def _start(self, name: str, start: Tensor) -> Tensor:
        """What was given under this name, else the start: a copy."""
        given = self._given.pop(name, start)
        if given.shape != start.shape:
            raise ShapeError(
                f"{name} does not fit", expected=str(list(start.shape)), got=str(list(given.shape))
            )
        return given.detach().clone()

    def forward(self, inputs: Mapping[str, Any], present: Named | None = None) -> ModelOutput:
        """Encodes, weighs, fuses and predicts.

        Args:
            inputs: What each encoder is called with, by modality: a tensor, a tuple of tensors for
                several arguments, or a dictionary of them by keyword. The first axis of each
                tensor is the batch. None, or no entry, is absent in the whole batch.
            present: bool ``[B, M]``, or by name ``[B]``; a name without an entry is present where
                it has an input. None: what has an input is present in every row. Where a modality
                is absent, its input may hold anything. Where it is present and its encoder
                returns NaN or Inf, values are as the spec's ``nonfinite`` says, but the gradients
                of that encoder and its head become NaN.

        Raises:
            MissingInput: No modality has an input.
            SpecError: An input or a mask is of a modality that the spec does not name.
            ShapeError: Inputs disagree about the batch, or an encoder returns another shape.
            DTypeError: An input holds no tensor, an encoder returns no floating one, or a mask is
                not bool.
            NonFiniteInput, NothingPresent: As the spec asks.
        """
        embeddings, there = self.embed(inputs, present)
        ns, parameters = self.fusion.namespace(there.device), self._parameters_by_name()
        with ns.guard():
            scaled = head_inputs(ns, embeddings, there, parameters, modalities=self.spec.modalities)
            given = heads_of_inputs(
                ns,
                scaled,
                there,
                parameters,
                modalities=self.spec.modalities,
                dropout=self.dropout,
                outputs=self._outputs,
            )
        output = self.fusion(**given, present=there)
        with ns.guard():
            said = joint_said(ns, self.spec, output, scaled, there, parameters)
            probabilities = schedule_probabilities(
                ns, self.spec, output, said, parameters, self.prior
            )
            predictions = self._predictions(ns, output, probabilities, parameters)
        kind = ModelInCheckpoint if isinstance(output, InCheckpoint) else ModelOutput
        return kind(
            **{f.name: getattr(output, f.name) for f in fields(FusionOutput)},
            features=given["features"],
            logits=given["logits"],
            mc_logits=given.get("mc_logits"),
            predictions=predictions,
            probabilities=probabilities,
        )

    def embed(
        self, inputs: Mapping[str, Any], present: Named | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Runs the encoders alone: what ``dms fit`` learns from.

        Args:
            inputs: As in `forward`.
            present: As in `forward`.

        Returns:
            ``[B, D_m]`` by modality, 0 where it is absent; and which are there, bool ``[B, M]``.

        Raises:
            MissingInput, SpecError, ShapeError, DTypeError: As in `forward`.
        """
        self.fusion._check_names("inputs", inputs)
        # A tokenizer's dictionary is none that a pytree knows.
        inputs = {
            name: dict(given) if isinstance(given, Mapping) else given
            for name, given in inputs.items()
            if given is not None
        }
        there = self._there(inputs, present)
        embeddings = {
            name: self._encoded(name, inputs.get(name), there[:, m])
            for m, name in enumerate(self.spec.modalities)
        }
        return embeddings, there

    def _parameters_by_name(self) -> dict[str, Tensor]:
        return {name: getattr(self, key) for name, key in self._names.items()}

    def _predictions(
        self,
        ns: Namespace,
        output: FusionOutput,
        probabilities: Tensor,
        parameters: Mapping[str, Tensor],
    ) -> Tensor:
        """Gives logits of the classes for what was fused, [B, C]."""
        if self.spec.fusion == "feature":
            scores: Tensor = class_scores(ns, output.fused, parameters)
            return scores
        if self.spec.fusion == "logit":
            return output.fused
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()

    def _there(self, inputs: Mapping[str, Any], present: Named | None) -> Tensor:
        """Says which rows have which modality: bool [B, M]."""
        size, device = _batch(inputs)
        modalities = self.spec.modalities
        given = torch.tensor([name in inputs for name in modalities], device=device)
        there = given.expand(size, -1)
        if isinstance(present, Mapping):
            self.fusion._check_names("present", present)
            masks = zip(modalities, there.unbind(1), strict=True)
            rows = [row if (own := present.get(name)) is None else own for name, row in masks]
            present = torch.stack(rows, dim=1)
        if present is None:
            return there
        if present.dtype != torch.bool or present.shape != there.shape:
            kind = DTypeError if present.dtype != torch.bool else ShapeError
            raise kind(
                "present does not fit the inputs",
                expected=f"bool {list(there.shape)}",
                got=f"{present.dtype} {list(present.shape)}",
            )
        return present & there

    def _encoded(self, name: str, given: Any, here: Tensor) -> Tensor:
        """Encodes the rows that are there, [B, D_m]; zeros in the others."""
        rows = here.nonzero().squeeze(1)
        shape = (len(here), self.widths[name])
        if len(rows) == 0:
            return torch.zeros(shape, device=here.device)
        if len(rows) < len(here):
            given = pytree.tree_map_only(Tensor, lambda tensor: tensor[rows], given)
        encoder = self.encoders[name]
        if isinstance(given, Mapping):
            values = encoder(**given)
        else:
            values = encoder(*given) if isinstance(given, tuple) else encoder(given)
        if not isinstance(values, Tensor) or not values.is_floating_point():
            raise DTypeError(
                f"the encoder of {name!r} does not return features",
                expected="a floating tensor",
                got=str(values.dtype) if isinstance(values, Tensor) else type(values).__name__,
                fix="Wrap it in a module that returns its pooled output.",
            )
        if values.shape != (len(rows), shape[1]):
            raise ShapeError(
                f"the encoder of {name!r} returns another shape",
                expected=f"[n, D_m] = {[len(rows), shape[1]]}",
                got=str(list(values.shape)),
                fix="Pool what it returns to one vector for each row, and check widths.",
            )
        return values.new_zeros(shape).index_copy(0, rows, values)


def _batch(inputs: Mapping[str, Any]) -> tuple[int, torch.device]:
    """Gives the size of the first axis, the same for all tensors, and the device of the first."""
    if not inputs:
        raise MissingInput(
            "no modality has an input",
            expected="an input for at least one",
            got="none",
        )
    tensors: list[Tensor] = []
    sizes: dict[str, list[int | None]] = {}
    for name, given in inputs.items():
        own = [leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, Tensor)]
        if not own:
            raise DTypeError(
                f"the input of {name!r} holds no tensor",
                expected="a tensor, a tuple of tensors, or a dictionary of them",
                got=type(given).__name__,
            )
        tensors += own
        sizes[name] = [tensor.shape[0] if tensor.ndim else None for tensor in own]
    size = sizes[next(iter(sizes))][0]
    if size is None or any(other != size for own in sizes.values() for other in own):
        raise ShapeError(
            "the inputs disagree about the batch",
            expected="the same first axis for all",
            got=", ".join(f"{name} {own}" for name, own in sizes.items()),
        )
    return size, tensors[0].device
