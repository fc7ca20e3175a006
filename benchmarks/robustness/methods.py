"""What is measured: schedulers over the heads of ``dms fit``, and methods with heads of their own.

Whatever only weighs unimodal predictions does so over the heads of one fit, that of ``robust``, so
that a table compares schedulers and not heads. What people would use instead stands beside it:
one logistic regression on the concatenation, and the mean of one for each modality. Nothing here
ever sees a test row.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from protocol import Inputs, Split, Trial, trial
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from dms_spec.artifact import Artifact, load_artifact, save_artifact
from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.settings import FitSettings
from dms_spec.embeddings.table import Table
from dms_spec.embeddings.typicality import Covariance
from dms_spec.equations.evidence import REDUNDANCY
from dms_spec.equations.heads import apply_heads
from dms_spec.equations.learned import softplus_inverse
from dms_spec.equations.policies import modality_dropout_presence
from dms_spec.equations.published.simmlm import nested_pairs
from dms_spec.equations.published.tmc import dempster_shafer, evidence_of
from dms_spec.plugins import get_backend
from dms_spec.robustness import Answer
from dms_spec.spec import SchedulerSpec
from dms_torch import Fusion
from dms_torch.fit.training import fit
from dms_torch.published import more_vs_fewer

Names = tuple[str, ...]

#: Of the second backbone: principal components of each modality.
COMPONENTS = 64
#: How often a modality is absent from a training row, where presence is drawn.
ABSENT = 0.3

# ------------------------------------------------------------------------------------------ specs

_CONFIDENCE = {"confidence": {"normalize": True}}
_DMS: dict[str, dict[str, Any]] = {
    **_CONFIDENCE,
    "uncertainty": {"reduction": "mean"},
    "agreement": {},
}
_DMS_SUM = _DMS | {"uncertainty": {"reduction": "sum"}}


def _rule(names: Names, signals: dict[str, dict[str, Any]], **changes: Any) -> SchedulerSpec:
    """E5 with coefficients of 1, over probabilities."""
    options: dict[str, Any] = {"fusion": "probability"} | changes
    ones = dict.fromkeys(signals, 1.0)
    return SchedulerSpec(modalities=names, signals=signals, coefficients=ones, **options)


def _robust(names: Names) -> SchedulerSpec:
    return SchedulerSpec.preset("robust", names)


def _plain(names: Names, policy: str, fusion: str) -> SchedulerSpec:
    return SchedulerSpec(modalities=names, policy=policy, fusion=fusion)


#: Specs that are learned with ``dms fit``'s defaults.
LEARNED = {
    "robust": _robust,
    "learned_dms": lambda names: _rule(names, _DMS_SUM, policy="learned_linear"),
    "dms_paper": lambda names: SchedulerSpec.preset("paper", names),
    "co_attention": lambda names: _plain(names, "co_attention", "feature"),
    "modality_dropout": lambda names: _plain(names, "modality_dropout", "feature"),
    "dmome": lambda names: _plain(names, "dmome", "logit"),
    "ma_afs": lambda names: _plain(names, "ma_afs", "feature"),
    "robust, full covariance": _robust,
    "robust, diagonal covariance": _robust,
    "robust, presence drawn": _robust,
    "robust, PCA": _robust,
    "heads alone": lambda names: _plain(names, "static", "probability"),
}

#: Less than ``robust`` learned: the beginnings of the names of parameters that are taken out of its
#: artifact.
LESS = {
    "robust, trust not learned": ("policy.", "fusion.redundancy", "joint."),
    "robust, without the joint expert": ("joint.",),
}
#: What stands where it was taken out: without it the level would not know the class frequencies.
_DEFAULT = {"fusion.redundancy": softplus_inverse(np.asarray(REDUNDANCY))}

_FORMS: dict[str, Covariance] = {
    "robust, full covariance": "full",
    "robust, diagonal covariance": "diagonal",
}

#: Specs over the heads of ``robust``. What they learned there they keep (typicality).
RULES = {
    "static": lambda names: _plain(names, "static", "probability"),
    "static_logit": lambda names: _plain(names, "static", "logit"),
    # MLA's weights for each sample: a softmax over modalities of the negative entropy, in nats.
    "entropy": lambda names: _rule(names, {"confidence": {"normalize": False}}),
    "entropy_logit": lambda names: _rule(
        names, {"confidence": {"normalize": False}}, fusion="logit"
    ),
    "dms_rule": lambda names: _rule(names, _DMS),
    "dms_rule_sum": lambda names: _rule(names, _DMS_SUM),
    "qmf": lambda names: _plain(names, "qmf", "logit"),
    "tmc": lambda names: _plain(names, "tmc", "probability"),
    "dms_rule, alpha 0": lambda names: _rule(names, _without(_DMS_SUM, "confidence")),
    "dms_rule, beta 0": lambda names: _rule(names, _without(_DMS_SUM, "uncertainty")),
    "dms_rule, gamma 0": lambda names: _rule(names, _without(_DMS_SUM, "agreement")),
}

#: The same over the heads of the second backbone.
PCA_RULES = {"static, PCA": "static", "dms_rule, PCA": "dms_rule_sum"}


def _without(signals: dict[str, dict[str, Any]], name: str) -> dict[str, dict[str, Any]]:
    return {key: value for key, value in signals.items() if key != name}


# ------------------------------------------------------------------------------------------- fits


class Fits:
    """The fits of one split, each made once and kept in a folder until the study is over."""

    def __init__(self, own: Split, folder: Path, settings: FitSettings) -> None:
        self.split, self._folder = own, folder
        self._settings = replace(settings, seed=own.seed)
        self._trials: dict[str, Trial] = {}

    def trial(self, condition: str) -> Trial:
        """The test rows under a condition, corrupted once for all methods."""
        if condition not in self._trials:
            self._trials[condition] = trial(self.split, condition)
        return self._trials[condition]

    def __call__(self, name: str) -> Artifact:
        """A fitted artifact; its model says how many CPU seconds it took."""
        own = self.split
        path = self._folder / f"{own.name}-{own.seed}-{own.share:g}-{name}"
        if path.exists():
            return load_artifact(path)
        start = time.process_time()
        if name == "dmome, MoFe":
            artifact = _more_vs_fewer(self("dmome"), self.split)
        else:
            spec = LEARNED[name](self.split.table.modalities)
            settings = self._settings
            if name.endswith(" covariance"):
                settings = replace(settings, covariance=_FORMS[name])
            artifact = fit(self._table(name), spec, settings).artifact
        seconds = time.process_time() - start
        artifact = replace(artifact, model={**artifact.model, "cpu_seconds": seconds})
        save_artifact(path, artifact)
        return artifact

    def _table(self, name: str) -> Table:
        table = self.split.training
        if name.endswith("PCA"):
            table = replace(table, embeddings=self.components(table.embeddings))
        if name.endswith("presence drawn"):
            seed = self.split.seed
            present = modality_dropout_presence(table.present, seed=seed, rate=ABSENT)
            table = replace(table, present=present)
        return table

    def components(self, inputs: Inputs) -> dict[str, NDArray[Any]]:
        """Each modality in the leading principal components of its training rows."""
        return {
            name: ((x - center) @ axes.T).astype(np.float32)
            for (name, x), (center, axes) in zip(inputs.items(), self._axes, strict=True)
        }

    @cached_property
    def _axes(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        found = []
        for x in self.split.training.embeddings.values():
            center = x.mean(axis=0, dtype=np.float64)
            axes = np.linalg.svd(x - center, full_matrices=False)[2]
            found.append((center, axes[:COMPONENTS]))
        return found


def _more_vs_fewer(artifact: Artifact, own: Split) -> Artifact:
    """SimMLM's second stage: experts and gate together, with the MoFe loss (lambda 0.1).

    50 epochs of Adam at 1e-3 from where ``dms fit`` left them; the projections, which only the
    gate reads, stay.
    """
    torch.set_num_threads(1)
    table, spec = own.training, artifact.spec
    ns = get_backend("torch").namespace("cpu")
    x = {name: torch.from_numpy(array) for name, array in table.embeddings.items()}
    assert table.labels is not None
    labels = torch.from_numpy(np.searchsorted(own.classes, table.labels))
    gate = artifact.scheduler_parameters
    fusion = Fusion(spec, gate)
    heads = {
        name: torch.from_numpy(np.array(array))
        for name, array in artifact.parameters.items()
        if name not in gate
    }
    experts = [name for name in heads if ".classifier." in name]
    for name in experts:
        heads[name].requires_grad_()
    optimiser = torch.optim.Adam([*fusion.parameters(), *(heads[n] for n in experts)], lr=1e-3)
    random = np.random.RandomState(own.seed)
    for _ in range(50):
        order = random.permutation(len(table))
        for rows in np.array_split(order, -(-len(order) // 128)):
            outputs = apply_heads(
                ns,
                {name: array[rows] for name, array in x.items()},
                None,
                heads,
                modalities=spec.modalities,
                dropout=0.0,
                outputs=("features", "logits"),
            )
            losses = []
            for there in nested_pairs(table.present[rows], seed=random.randint(2**31)):
                fused = fusion(**outputs, present=torch.from_numpy(there)).fused
                losses.append(functional.cross_entropy(fused, labels[rows], reduction="none"))
            optimiser.zero_grad()
            more_vs_fewer(*losses, weight=0.1)["total"].backward()
            optimiser.step()
    learned = {f"policy.{name.rpartition('/')[2]}": p for name, p in fusion.named_parameters()}
    learned |= {name: heads[name] for name in experts}
    arrays = {name: tensor.detach().numpy() for name, tensor in learned.items()}
    return replace(artifact, parameters={**artifact.parameters, **arrays})


# ---------------------------------------------------------------------------------------- methods


@dataclass
class Scheduled:
    """An artifact that answers a trial. ``kind`` is "scheduler", "oracle" or "dempster_shafer"."""

    predictor: Predictor
    kind: str = "scheduler"
    fits: Fits | None = None  # where the inputs are its components

    def __call__(self, given: Trial) -> Answer:
        """Its answer; the oracle alone looks at what was corrupted."""
        present = given.present & ~given.hit if self.kind == "oracle" else given.present
        inputs = self.fits.components(given.inputs) if self.fits else given.inputs
        table = Table(embeddings=inputs, present=present)
        if self.kind == "dempster_shafer":
            return Answer(probabilities=self._combined(table))
        result = self.predictor.predict(table)
        return Answer(
            probabilities=result["probabilities"],
            weights=result["weights"],
            unimodal=self.predictor.unimodal(table),
            active=result["active"],
        )

    def _combined(self, table: Table) -> NDArray[Any]:
        """TMC itself: the opinions of all modalities by Dempster's rule."""
        artifact, ns = self.predictor.artifact, get_backend("numpy").namespace("cpu")
        with ns.guard():
            logits = apply_heads(
                ns,
                table.embeddings,
                table.present,
                artifact.parameters,
                modalities=table.modalities,
                dropout=0.0,
                outputs=("logits",),
            )["logits"]
            opinion = dempster_shafer(ns, evidence_of(ns, logits), table.present)
        return np.asarray(opinion.probabilities)


class Concatenation:
    """One logistic regression on all features; an absent modality is at its training mean."""

    def __init__(self, own: Split) -> None:
        table = own.training
        self._mean = {name: x.mean(axis=0) for name, x in table.embeddings.items()}
        self._model = _regression(self._joined(table.embeddings, table.present), table)

    def __call__(self, given: Trial) -> Answer:
        joined = self._joined(given.inputs, given.present)
        return Answer(probabilities=self._model.predict_proba(joined))

    def _joined(self, inputs: Inputs, present: NDArray[np.bool_]) -> NDArray[Any]:
        parts = [
            np.where(present[:, m, None], x, self._mean[name])
            for m, (name, x) in enumerate(inputs.items())
        ]
        return np.concatenate(parts, axis=1)


class Averaged:
    """The mean of the probabilities of one logistic regression for each modality."""

    def __init__(self, own: Split) -> None:
        table = own.training
        self._models = {name: _regression(x, table) for name, x in table.embeddings.items()}

    def __call__(self, given: Trial) -> Answer:
        parts = [self._models[name].predict_proba(x) for name, x in given.inputs.items()]
        unimodal = np.stack(parts, axis=1)
        weights = given.present / np.maximum(given.present.sum(axis=1, keepdims=True), 1)
        return Answer(probabilities=np.einsum("nm,nmc->nc", weights, unimodal))


def _regression(x: NDArray[Any], table: Table) -> LogisticRegression:
    """scikit-learn's defaults, on the features that all methods see, with steps enough."""
    return LogisticRegression(max_iter=5000).fit(x, table.labels)


#: What people would use instead of a scheduler.
REGRESSIONS = {"concatenation": Concatenation, "averaged": Averaged}

Method = Scheduled | Concatenation | Averaged


def method(name: str, fits: Fits) -> Method:
    """A method by name, fitted where it has something to learn."""
    return REGRESSIONS[name](fits.split) if name in REGRESSIONS else scheduled(name, fits)


def scheduled(name: str, fits: Fits, backend: str = "numpy") -> Scheduled:
    """A method that is an artifact, or is made of one."""
    own = fits.split
    kind = name if name in ("oracle", "dempster_shafer") else "scheduler"
    pca = name.endswith("PCA")
    if name in LEARNED or name == "dmome, MoFe":
        artifact = fits(name)
    elif name in LESS:
        artifact = _less(fits("robust"), LESS[name])
    else:
        source = fits("robust, PCA" if pca else "robust")
        rule = PCA_RULES.get(name, name if kind == "scheduler" else "static")
        artifact = _over_heads(source, RULES[rule](own.table.modalities))
    return Scheduled(Predictor(artifact, get_backend(backend)), kind, fits if pca else None)


def _less(artifact: Artifact, prefixes: tuple[str, ...]) -> Artifact:
    """The artifact without some of what it learned."""
    kept = {
        name: _DEFAULT.get(name, array) if name.startswith(prefixes) else array
        for name, array in artifact.parameters.items()
        if name in _DEFAULT or not name.startswith(prefixes)
    }
    return replace(artifact, parameters=kept)


def _over_heads(source: Artifact, spec: SchedulerSpec) -> Artifact:
    """Another spec over the same heads, with what the source knows about its signals."""
    signals = tuple(f"signals.{name}." for name in spec.signals)
    own = source.scheduler_parameters
    parameters = {
        name: array
        for name, array in source.parameters.items()
        if name not in own or name.startswith(signals)
    }
    return Artifact(spec=spec, parameters=parameters, model=source.model)
