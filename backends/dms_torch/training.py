"""Learning from a table: heads, then their temperatures, then what the policy has to learn.

Every random draw is NumPy's Philox of (seed, stage, epoch): nothing depends on the state of a
generator, so that a run that was stopped goes on to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dms_spec._version import PACKAGE
from dms_spec.artifact import Artifact
from dms_spec.calibration import fit_temperature
from dms_spec.equations.heads import apply_heads, class_scores, draw_masks
from dms_spec.errors import DMSWarning, SpecError
from dms_spec.plugins import get_backend, get_policy
from dms_spec.predictor import class_indices, evaluate, head_outputs
from dms_spec.resolve import Resolved
from dms_spec.spec import SchedulerSpec
from dms_spec.tables import Table, check_learnable
from dms_torch.backend import TorchBackend, torch_namespace
from dms_torch.checkpoint import Arrays, Checkpoint, State
from dms_torch.fusion import Fusion
from dms_torch.losses import consistency_loss, present_cross_entropy
from dms_torch.rows import Part, Random, dropped, held_out, scale_of
from dms_torch.settings import FitSettings

_HEADS, _POLICY = "heads", "policy"
# First entries of the Philox streams; draw_masks takes bytes, so these cannot meet its own.
_STREAMS = {"split": 256, "start": 257, _HEADS: 258, _POLICY: 259}


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands, after each epoch: its stage, the epoch of how many, and the score."""

    stage: str
    epoch: int
    epochs: int
    score: float
    best_score: float


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What was learned.

    Attributes:
        artifact: Spec, parameters, and in its model the classes, settings, calibration, metrics.
        notes: What is weaker than it looks, in words.
        resumed: Where the run went on from, in words; empty if it ran in one go.
    """

    artifact: Artifact
    notes: tuple[str, ...]
    resumed: str = ""


def fit(
    table: Table,
    spec: SchedulerSpec,
    settings: FitSettings | None = None,
    *,
    device: str | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 5.0,
    report: Callable[[Progress], None] | None = None,
) -> Fitted:
    """Learn heads over frozen embeddings, and a policy over the heads.

    1. Heads: a classifier for each modality, by its cross-entropy where the modality is present.
       Where the spec reads features, also projections, by the cross-entropy of one linear head
       that all modalities share, and by the consistency loss over uniform weights: that is where
       it can act, since it must not push the scheduler's weights.
    2. One temperature for each modality, on held-out rows.
    3. Policy: its parameters, and for fusion of features a linear head over the fused ones, by
       the cross-entropy of the fused prediction. The heads stay as they are. It starts at the
       rule, and the start counts: on held-out rows the result is never worse than the rule.

    A fifth of the training rows is held out, evenly over the classes, for stopping early and for
    the temperatures. The same table, spec and settings give the same bits on the CPU, where
    torch runs on one thread meanwhile.

    Args:
        table: With labels; learned from are its `Table.training_rows`.
        spec: Its modalities are the table's.
        settings: How to learn.
        device: Of the torch backend; None for its first.
        checkpoint: A file to keep the state in, and to go on from if it is there. Remove it when
            the result is safe. None keeps none.
        checkpoint_seconds: How long to leave between two states.
        report: Called after each epoch.

    Raises:
        MissingInput: Nothing can be learned from the table.
        SpecError, UnknownName: The spec or a setting does not fit.
        NonFiniteInput: Embeddings are not finite and the spec refuses that, or are too large.
        BackendUnavailable: The device cannot be used.
        ArtifactError, FileError: The checkpoint is of another run, or damaged.
    """
    settings = settings or FitSettings()
    device = TorchBackend().check_device(device)
    if table.modalities != spec.modalities:
        raise SpecError(
            "the table and the spec name different modalities",
            expected=", ".join(spec.modalities),
            got=", ".join(table.modalities),
        )
    check_learnable(table)
    if spec.nonfinite == "raise":
        table.refuse_spoilt()
    with _one_thread(), warnings.catch_warnings():
        # The same words come back as notes.
        warnings.simplefilter("ignore", DMSWarning)
        run = _Run(table, spec, settings, device, report)
        store = Checkpoint(
            checkpoint, _fingerprint(table, spec, settings, device), checkpoint_seconds
        )
        return run.run(store)


class _Run:
    """One run: the rows, the heads as they come to be, and the two stages."""

    def __init__(
        self,
        table: Table,
        spec: SchedulerSpec,
        settings: FitSettings,
        device: str,
        report: Callable[[Progress], None] | None,
    ) -> None:
        self.table, self.spec, self.settings, self.device = table, spec, settings, device
        self.report = report
        self.ns = torch_namespace(torch.device(device).type)
        assert table.labels is not None  # noqa: S101 - narrows the type; checked by fit
        rows = table.training_rows()
        some = table.present[rows].any(axis=1)
        self.left_out = int((~some).sum())
        rows = rows[some]
        self.classes, labels = np.unique(table.labels[rows], return_inverse=True)
        self.prior = np.bincount(labels, minlength=len(self.classes)) / len(labels)
        held = held_out(labels, _stream(settings.seed, "split"))
        self.fit_rows, self.held_rows = rows[~held], rows[held]
        self.scale = scale_of(table, self.fit_rows)
        self.fusion = self._fusion()
        self.resolved: Resolved = self.fusion._resolved
        self.outputs = head_outputs(self.resolved, settings.passes)
        self.uses_features = "features" in self.outputs
        # Standardised once, in the embeddings' own precision, and float32 from there on.
        self.fit_part = self._part(self.fit_rows)
        self.held_part = self._part(self.held_rows)

    def _fusion(self) -> Fusion:
        """The scheduler at the rule; a policy that can do without parameters learns if it can."""
        reads_features = "features" in get_policy(self.spec.policy).needs
        width = self.settings.width if reads_features else None
        return Fusion(self.spec, width=width, seed=self.settings.seed).to(self.device)

    def _part(self, rows: NDArray[np.intp]) -> Part:
        table, move = self.table, TorchBackend().from_numpy
        embeddings, present = {}, table.present[rows].copy()
        for m, name in enumerate(self.spec.modalities):
            mean, deviation = (self.scale[f"heads.{name}.scale.{k}"] for k in ("mean", "deviation"))
            x = np.where(present[:, m, None], table.embeddings[name][rows], mean)
            with np.errstate(over="ignore"):
                standard = ((x - mean) / deviation).astype(np.float32)
            # Too far out for float32: absent, as it is for the scheduler.
            present[:, m] &= np.isfinite(standard).all(axis=1)
            standard[~present[:, m]] = 0
            embeddings[name] = move(standard, self.device)
        assert table.labels is not None  # noqa: S101 - narrows the type
        labels = class_indices(self.classes, table.labels[rows])
        return Part(embeddings, move(present, self.device), move(labels, self.device))

    # ------------------------------------------------------------------------------------ stages

    def run(self, store: Checkpoint) -> Fitted:
        saved = store.load()
        resumed = f"stage {saved.stage!r}, epoch {saved.epoch}" if saved else ""
        history: dict[str, Any] = dict(saved.finished) if saved else {}
        if saved is None or saved.stage == _HEADS:
            learned, history[_HEADS] = self._train(
                _HEADS, self._start(), self._heads_loss, store, saved, {}, history
            )
            saved = None
        else:
            learned = saved.part("done")
        calibration = self._calibrate(learned)
        done = dict(learned)
        self._heads = self._moved(done)
        start = {
            name: parameter.detach().cpu().numpy()
            for name, parameter in self.fusion.named_parameters()
        }
        if self.spec.fusion == "feature":
            start |= {name: array for name, array in learned.items() if name.startswith("head.")}
        parameters = {n: a for n, a in learned.items() if n.startswith("heads.")} | self.scale
        parameters |= self._fixed(calibration)
        self._heads = self._moved(parameters)
        if start:
            learned, history[_POLICY] = self._train(
                _POLICY, start, self._policy_loss, store, saved, done, history
            )
            parameters |= {_artifact_name(name): array for name, array in learned.items()}
        return self._fitted(parameters, calibration, history, resumed)

    def _start(self) -> Arrays:
        """Where the heads start: classifiers at 0, projections at random."""
        random, classes = _stream(self.settings.seed, "start"), len(self.classes)
        start: Arrays = {}
        for name in self.spec.modalities:
            inputs = self.table.embeddings[name].shape[1]
            start[f"heads.{name}.classifier.weight"] = np.zeros((inputs, classes), np.float32)
            start[f"heads.{name}.classifier.bias"] = np.zeros(classes, np.float32)
            if self.uses_features:
                width = self.settings.width
                weight = random.normal(size=(inputs, width)) / np.sqrt(inputs)
                start[f"heads.{name}.projection.weight"] = weight.astype(np.float32)
                start[f"heads.{name}.projection.bias"] = np.zeros(width, np.float32)
        if self.uses_features:
            start["head.weight"] = np.zeros((self.settings.width, classes), np.float32)
            start["head.bias"] = np.zeros(classes, np.float32)
        return start

    def _fixed(self, calibration: Mapping[str, Any]) -> Arrays:
        """What the heads have besides: temperatures, and masks where there are passes."""
        temperatures: Arrays = {
            f"heads.{name}.temperature": np.array(c["temperature"], dtype=np.float32)
            for name, c in calibration.items()
        }
        if "mc_logits" not in self.outputs:
            return temperatures
        widths = {name: array.shape[1] for name, array in self.table.embeddings.items()}
        masks = draw_masks(widths, self.settings.passes, self.settings.dropout, self.settings.seed)
        return temperatures | {f"heads.{n}.dropout.masks": mask for n, mask in masks.items()}

    def _train(
        self,
        stage: str,
        start: Arrays,
        loss: _Loss,
        store: Checkpoint,
        saved: State | None,
        done: Arrays,
        finished: Mapping[str, Any],
    ) -> tuple[Arrays, dict[str, Any]]:
        """Adam on some parameters until the held-out score no longer falls: the best, a summary."""
        settings = self.settings
        now = saved.part("now") if saved else start
        parameters = {n: nn.Parameter(tensor) for n, tensor in self._moved(now).items()}
        optimiser = torch.optim.Adam(parameters.values(), lr=settings.learning_rate)
        steps = -(-len(self.fit_rows) // settings.batch_size)
        if saved:
            epoch, best_epoch, best_score = saved.epoch, saved.best_epoch, saved.best_score
            best = saved.part("best")
            _restore(optimiser, parameters, saved, epoch * steps)
        else:
            epoch, best_epoch, best = 0, 0, dict(start)
            best_score = self._score(loss, parameters)
        while epoch < settings.epochs and epoch - best_epoch < settings.patience:
            epoch += 1
            random = _stream(settings.seed, stage, epoch)
            for batch in self._batches(random):
                optimiser.zero_grad(set_to_none=True)
                loss(parameters, batch, random).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            score = self._score(loss, parameters)
            if score < best_score:
                best_epoch, best_score, best = epoch, score, _arrays(parameters)
            store.save(
                State(
                    stage=stage,
                    epoch=epoch,
                    best_epoch=best_epoch,
                    best_score=best_score,
                    finished=finished,
                    arrays=_snapshot(parameters, optimiser, best, done),
                )
            )
            if self.report:
                self.report(
                    Progress(
                        stage=stage,
                        epoch=epoch,
                        epochs=settings.epochs,
                        score=score,
                        best_score=best_score,
                    )
                )
        return best, {"epochs": epoch, "best_epoch": best_epoch, "held_out_loss": best_score}

    def _score(self, loss: _Loss, parameters: Mapping[str, Tensor]) -> float:
        """The held-out loss, without dropout; infinite where it is not a number."""
        with torch.no_grad():
            score = float(loss(parameters, self.held_part, None))
        return score if np.isfinite(score) else float("inf")

    def _batches(self, random: Random) -> Iterator[Part]:
        order = random.permutation(len(self.fit_rows))
        change = self.resolved.policy.training_presence
        for start in range(0, len(order), self.settings.batch_size):
            batch = self.fit_part.rows(
                torch.from_numpy(order[start : start + self.settings.batch_size])
            )
            if change is not None:
                seed = int(random.integers(2**63))
                present = batch.present.cpu().numpy()
                present = change(present, seed=seed, **self.spec.policy_options)
                batch.present = torch.from_numpy(present).to(self.device)
            yield batch

    def _heads_loss(
        self, parameters: Mapping[str, Tensor], part: Part, random: Random | None
    ) -> Tensor:
        embeddings = part.embeddings
        rate = self.settings.dropout
        if random is not None and rate > 0:
            embeddings = {name: dropped(x, rate, random) for name, x in embeddings.items()}
        outputs = ("logits", "features") if self.uses_features else ("logits",)
        heads = self._apply(embeddings, part.present, self._neutral(parameters), outputs)
        total = _unimodal(heads["logits"], part)
        if self.uses_features:
            shared = class_scores(self.ns, heads["features"], parameters)
            total = total + _unimodal(shared, part)
            level = torch.zeros(part.present.shape, dtype=shared.dtype, device=shared.device)
            uniform = self.ns.masked_softmax(level, part.present)
            mwcl = consistency_loss(heads["features"], uniform)
            total = total + self.settings.consistency * mwcl
        return total

    def _policy_loss(
        self, parameters: Mapping[str, Tensor], part: Part, random: Random | None
    ) -> Tensor:
        del random  # the heads are fixed, and so are their masks
        with torch.no_grad():
            inputs = self._apply(part.embeddings, part.present, self._heads, self.outputs)
        own = {name: tensor for name, tensor in parameters.items() if "/" in name}
        result = torch.func.functional_call(
            self.fusion, own, (), {**inputs, "present": part.present}
        )
        if self.spec.fusion == "feature":
            scores = class_scores(self.ns, result.fused, parameters)
        elif self.spec.fusion == "logit":
            scores = result.fused
        else:  # their softmax gives the probabilities back
            scores = result.fused.clamp(min=torch.finfo(result.fused.dtype).tiny).log()
        return present_cross_entropy(scores, part.labels, result.active.any(dim=1))

    # ------------------------------------------------------------------------------------- heads

    def _apply(
        self,
        embeddings: Mapping[str, Tensor],
        present: Tensor,
        parameters: Mapping[str, Tensor],
        outputs: tuple[str, ...],
    ) -> dict[str, Tensor]:
        with self.ns.guard():
            return apply_heads(
                self.ns,
                embeddings,
                present,
                self._unscaled(parameters),
                modalities=self.spec.modalities,
                dropout=self.settings.dropout,
                outputs=outputs,
            )

    def _unscaled(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters for embeddings that are standardised already."""
        changed = dict(parameters)
        for name, x in self.fit_part.embeddings.items():
            changed[f"heads.{name}.scale.zero"] = torch.zeros_like(x[0])
            changed[f"heads.{name}.scale.unit"] = torch.ones_like(x[0])
        return changed

    def _neutral(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Temperatures are fitted after the heads: until then they are 1."""
        one = torch.ones((), device=self.device)
        ones = {f"heads.{name}.temperature": one for name in self.spec.modalities}
        return {**parameters, **ones}

    def _calibrate(self, learned: Arrays) -> dict[str, dict[str, Any]]:
        """For each modality its temperature, and what it changed on the held-out rows."""
        part = self.held_part
        with torch.no_grad():
            parameters = self._neutral(self._moved(learned))
            heads = self._apply(part.embeddings, part.present, parameters, ("logits",))
        logits, labels = heads["logits"].cpu().numpy(), part.labels.cpu().numpy()
        there = part.present.cpu().numpy()
        result = {}
        for m, name in enumerate(self.spec.modalities):
            rows = there[:, m]
            if rows.any():
                result[name] = asdict(fit_temperature(logits[rows, m], labels[rows]))
            else:
                result[name] = {
                    "temperature": 1.0,
                    "samples": 0,
                    "note": "absent in all held-out rows: not calibrated",
                }
        return result

    def _moved(self, arrays: Arrays) -> dict[str, Tensor]:
        # A copy: what is trained in place must not change what it started from.
        return {n: torch.from_numpy(np.array(a)).to(self.device) for n, a in arrays.items()}

    # ------------------------------------------------------------------------------------ result

    def _fitted(
        self,
        parameters: Arrays,
        calibration: dict[str, dict[str, Any]],
        history: dict[str, Any],
        resumed: str,
    ) -> Fitted:
        table, test = self.table, self.table.test
        notes = [*table.notes(), *self.resolved.notes()]
        notes += [
            f"signal {signal.name!r} is 0: it needs two passes or more"
            for signal in self.resolved.signals
            if signal.optional and "mc_logits" in signal.needs and self.settings.passes < 2
        ]
        if self.left_out:
            notes.append(f"{self.left_out} training rows have nothing present; they are left out")
        if history[_HEADS]["best_epoch"] == 0:
            notes.append("the heads learned nothing that helps held-out rows; lower the rate?")
        notes += [f"temperature of {n!r}: {c['note']}" for n, c in calibration.items() if c["note"]]
        model: dict[str, Any] = {
            "classes": self.classes.tolist(),
            "prior": self.prior.tolist(),
            "dropout": self.settings.dropout,
            "passes": self.settings.passes if "mc_logits" in self.outputs else 0,
            "data": {
                "rows": len(table),
                "training_rows": len(self.fit_rows),
                "held_out_rows": len(self.held_rows),
                "test_rows": 0 if test is None else len(test),
                "modalities": {
                    name: {"width": array.shape[1], "present": int(table.present[:, m].sum())}
                    for m, (name, array) in enumerate(table.embeddings.items())
                },
            },
            "settings": asdict(self.settings),
            "device": self.device,
            "stages": history,
            "calibration": calibration,
            "notes": notes,
            "versions": {
                "dms-spec": PACKAGE,
                "python": platform.python_version(),
                "numpy": np.__version__,
                "torch": torch.__version__,
            },
        }
        artifact = Artifact(spec=self.spec, parameters=parameters, model=model)
        numpy = get_backend("numpy")
        model["metrics"] = {"held_out": evaluate(artifact, numpy, table.rows(self.held_rows))}
        if test is not None and len(test):
            model["metrics"]["test"] = evaluate(artifact, numpy, table.rows(test))
        return Fitted(artifact=artifact, notes=tuple(notes), resumed=resumed)


# --------------------------------------------------------------------------------------- helpers

_Loss = Callable[[Mapping[str, Tensor], "Part", Random | None], Tensor]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one CPU thread, for steps that are too small to share.

    Sums are then taken in one order whatever the number of cores, and threads that wait for each
    other on a busy machine do not make it ten times slower (seen: 17 s in place of 1.7 s).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _stream(seed: int, *key: str | int) -> Random:
    numbers = tuple(_STREAMS[k] if isinstance(k, str) else k for k in key)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=numbers)))


def _unimodal(logits: Tensor, part: Part) -> Tensor:
    """Cross-entropy of every modality by itself, the mean over all that are present."""
    samples, modalities, classes = logits.shape
    labels = part.labels[:, None].expand(samples, modalities).reshape(-1)
    return present_cross_entropy(logits.reshape(-1, classes), labels, part.present.reshape(-1))


def _artifact_name(name: str) -> str:
    return name.replace("/", ".") if name.startswith("policy/") else name


def _arrays(parameters: Mapping[str, Tensor]) -> Arrays:
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in parameters.items()}


def _snapshot(
    parameters: Mapping[str, Tensor], optimiser: torch.optim.Adam, best: Arrays, done: Arrays
) -> Arrays:
    """All arrays of a `State`."""
    first = {name: optimiser.state[p]["exp_avg"] for name, p in parameters.items()}
    second = {name: optimiser.state[p]["exp_avg_sq"] for name, p in parameters.items()}
    kinds = {
        "now": _arrays(parameters),
        "best": best,
        "first": _arrays(first),
        "second": _arrays(second),
        "done": done,
    }
    return {f"{kind}.{name}": array for kind, own in kinds.items() for name, array in own.items()}


def _restore(
    optimiser: torch.optim.Adam, parameters: Mapping[str, Tensor], saved: State, steps: int
) -> None:
    first, second = saved.part("first"), saved.part("second")
    for name, parameter in parameters.items():
        optimiser.state[parameter] = {
            "step": torch.tensor(float(steps)),
            "exp_avg": torch.from_numpy(first[name].copy()).to(parameter.device),
            "exp_avg_sq": torch.from_numpy(second[name].copy()).to(parameter.device),
        }


def _fingerprint(table: Table, spec: SchedulerSpec, settings: FitSettings, device: str) -> str:
    """Of everything that the result depends on."""
    plain = [spec.to_dict(), asdict(settings), torch.device(device).type, PACKAGE]
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    arrays: dict[str, Any] = {
        **{f"embeddings {name}": array for name, array in table.embeddings.items()},
        **{k: getattr(table, k) for k in ("present", "labels", "train", "test")},
    }
    for name, array in arrays.items():
        if array is not None:
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
