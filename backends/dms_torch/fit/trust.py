"""Learns how far fusion of evidence trusts, and whether a joint expert earns its share.

Doubt, exponents, redundancy and the share of the joint expert, all at once, by the likelihood of
the labels: half of it on rows as they are, half on rows under random corruption, each seen by heads
that have not learned from it. A penalty keeps them near where they start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dms_spec.equations.evidence import REDUNDANCY, fuse_evidence
from dms_spec.equations.joint import joint_logits, with_joint
from dms_spec.equations.learned import softplus_inverse
from dms_spec.interface.policy import PolicyInput
from dms_spec.interface.signal import Evidence
from dms_torch.fit.checkpoint import Arrays
from dms_torch.fit.corruption import corrupted, draws_of, exchanged, stream
from dms_torch.fit.heads import Heads
from dms_torch.fit.optimize import Descent, Tensors, on_device, to_host
from dms_torch.fit.part import Part
from dms_torch.fit.policy import at_the_rule

# How often validation rows are corrupted at most.
_DRAWS = 4
# The share of what is corrupted that is another row's.
_EXCHANGED = 1.0 / 3.0
_MOST_STEPS = 50
# Where its share starts, as a logit.
_SHARE = "joint/share"
# Of fewer validation rows with all modalities, nothing is known of the joint expert.
_FEW = 100
_SHARE_START = 1.0
# The penalty weighs as much as so many rows, however many there are.
_PULL_ROWS = 30.0


@dataclass(frozen=True)
class _Seen:
    """Holds validation rows of one fold, as they are or corrupted: what heads and signals say of
    them.
    """

    active: Tensor
    logits: Tensor
    signals: dict[str, Tensor]
    labels: Tensor
    weight: Tensor
    priors: Tensor
    joint: Tensor | None


def learn_trust(
    heads: Heads,
    copies: Sequence[Tensors],
    places: Sequence[Arrays],
    learned: Arrays,
    joint: Arrays,
    descent: Descent,
) -> list[Arrays]:
    """Learns the parameters ``policy.*``, ``fusion.*`` and ``joint.*`` for each copy of the heads.

    Args:
        heads: How they are applied, and the rows.
        copies: The parameters of each copy.
        places: The parameters of the signals for each copy.
        learned: With the class frequencies of each modality's heads.
        joint: What `joint_regression` found; nothing for a single modality.
        descent: Keeps what the stages come to.
    """
    trust = _Trust(heads, copies, places, learned, joint)
    found = descent.once("trust", trust.learn)
    return [trust.artifact_arrays(found, copy) for copy in range(len(copies))]


class _Trust:
    """The rows as heads see them, and the stage that learns from them."""

    def __init__(
        self,
        heads: Heads,
        copies: Sequence[Tensors],
        places: Sequence[Arrays],
        learned: Arrays,
        joint: Arrays,
    ) -> None:
        self._heads, self._joint = heads, joint
        names, device = heads.spec.modalities, str(heads.device)
        self._priors = np.stack([learned[f"priors.{name}"] for name in names], axis=1)  # [A, M, C]
        self._fusions = [at_the_rule(heads.spec, heads.settings, p).to(device) for p in places]
        self._copies = copies
        self._resolved = self._fusions[-1]._resolved
        rule = to_host({n: p for n, p in self._fusions[-1].learned().items() if "policy" in n})
        self._start = rule | {"fusion/redundancy": softplus_inverse(np.asarray(REDUNDANCY))}

    # ------------------------------------------------------------------------------- learning

    def learn(self) -> tuple[Arrays, dict[str, Any]]:
        """With the joint expert where it earns its share, else without."""
        clean, changed = self._rows()
        found, done = self._fit(clean, changed, self._start)
        record: dict[str, Any] = {"converged": done}
        if self._can_judge_joint(clean):
            start = self._start | {_SHARE: np.asarray(_SHARE_START, dtype=np.float32)}
            more, more_done = self._fit(clean, changed, start)
            gain, error = self._gain(clean, changed, found, more)
            record |= {"joint_gain": gain, "joint_gain_error": error}
            if gain > 0:
                found, record["converged"] = more, more_done
        parameters = on_device(found, str(self._heads.device))
        with torch.no_grad():
            record["validation_loss"] = float(self._mean(self._losses(clean, parameters), clean))
        return found, record

    def _can_judge_joint(self, clean: list[_Seen]) -> bool:
        """Whether there is a joint expert, and enough is known of the rows in which it speaks.

        Where a modality has never seen a class, it would take presence for a sign against it.
        """
        whole = sum(int(seen.active.all(dim=1).sum()) for seen in clean)
        return bool(self._joint) and whole >= _FEW and bool((self._priors[-1] > 0).all())

    def _fit(self, clean: list[_Seen], changed: list[_Seen], start: Arrays) -> tuple[Arrays, bool]:
        parameters = {
            name: torch.nn.Parameter(tensor)
            for name, tensor in on_device(start, str(self._heads.device)).items()
        }
        anchor = on_device(start, str(self._heads.device))
        rows = sum(len(seen.labels) for seen in clean)
        pull = self._heads.settings.pull * _PULL_ROWS / max(1, rows)
        optimiser = torch.optim.LBFGS(
            list(parameters.values()), max_iter=_MOST_STEPS, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            away = torch.stack([((p - anchor[n]) ** 2).sum() for n, p in parameters.items()])
            parts = [pull * away.sum()]
            parts[0].backward()  # type: ignore[no-untyped-call]
            for some in (clean, changed):
                half = 0.5 / torch.cat([seen.weight for seen in some]).sum()
                for seen in some:  # one after the other, so that few rows are in memory
                    parts.append(half * (self._loss(seen, parameters) * seen.weight).sum())
                    parts[-1].backward()  # type: ignore[no-untyped-call]
            return torch.stack([part.detach() for part in parts]).sum()

        optimiser.step(loss)  # type: ignore[no-untyped-call]
        steps = next(iter(optimiser.state.values()))["n_iter"]
        return to_host(parameters), steps < _MOST_STEPS

    def _gain(
        self, clean: list[_Seen], changed: list[_Seen], one: Arrays, other: Arrays
    ) -> tuple[float, float]:
        """Computes how much likelier the other makes labels, and its standard error over rows."""
        device = str(self._heads.device)
        gains = []
        with torch.no_grad():
            for rows in (clean, changed):
                without, with_ = (self._losses(rows, on_device(p, device)) for p in (one, other))
                gain = torch.cat(without) - torch.cat(with_)
                gains.append(gain.reshape(-1, sum(len(seen.labels) for seen in clean)).mean(dim=0))
        each = 0.5 * (gains[0] + gains[1])
        weight = torch.cat([seen.weight for seen in clean])
        weight = weight / weight.sum()
        mean = (weight * each).sum()
        error = ((weight * (each - mean)) ** 2).sum().sqrt()
        return float(mean), float(error)

    @staticmethod
    def _mean(losses: list[Tensor], rows: list[_Seen]) -> Tensor:
        weight = torch.cat([seen.weight for seen in rows])
        return (torch.cat(losses) * weight).sum() / weight.sum()

    def _losses(self, rows: list[_Seen], parameters: Tensors) -> list[Tensor]:
        return [self._loss(seen, parameters) for seen in rows]

    def _loss(self, seen: _Seen, parameters: Tensors) -> Tensor:
        """Computes the negative log-likelihood of each row's label."""
        tiny = torch.finfo(torch.float32).tiny
        p = self._probabilities(seen, parameters).clamp(min=tiny)
        return -p.gather(1, seen.labels[:, None])[:, 0].log()

    def _probabilities(self, seen: _Seen, parameters: Tensors) -> Tensor:
        ns, resolved = self._heads.ns, self._resolved
        own = {n.removeprefix("policy/"): p for n, p in parameters.items() if "policy/" in n}
        given = PolicyInput(
            evidence=Evidence(active=seen.active, dtype=seen.logits.dtype, parameters=own),
            signals=seen.signals,
            directions={signal.name: signal.direction for signal in resolved.signals},
            coefficients=resolved.spec.coefficients,
        )
        prior = torch.as_tensor(self._heads.rows.prior, dtype=seen.logits.dtype)
        with ns.guard():
            terms = resolved.policy.function(ns, given, **resolved.spec.policy_options)
            trust = torch.stack(list(terms.values())).sum(dim=0)
            fusion = {
                "prior": prior.to(seen.logits.device),
                "priors": seen.priors,
                "redundancy": parameters["fusion/redundancy"],
            }
            p: Tensor
            p, log_sound = fuse_evidence(ns, seen.logits, trust, seen.active, fusion)
            if _SHARE not in parameters or seen.joint is None:
                return p
            sound = torch.where(seen.active, log_sound.exp(), 0.0)
            share = torch.sigmoid(parameters[_SHARE])
            mixed: Tensor = with_joint(ns, p, sound, seen.joint, share)
            return mixed

    # ----------------------------------------------------------------------------------- rows

    def _rows(self) -> tuple[list[_Seen], list[_Seen]]:
        """Gives each validation row once as it is, and once for each draw of corruption."""
        clean, changed = [], []
        parts = [self._heads.rows.validation.of_fold(copy) for copy in range(len(self._copies))]
        judged = [(copy, part) for copy, part in enumerate(parts) if len(part.labels)]
        for copy, part in judged:
            clean.append(self._see(copy, part))
        for draw in range(draws_of(_DRAWS, len(self._heads.rows.validation.labels))):
            for copy, part in judged:
                random = stream(self._heads.settings.seed, "policy", copy, draw)
                embeddings, hit = corrupted(part.embeddings, random)
                embeddings = exchanged(embeddings, hit, _EXCHANGED, random)
                changed.append(self._see(copy, replace(part, embeddings=embeddings)))
        return clean, changed

    def _see(self, copy: int, part: Part) -> _Seen:
        heads = self._heads
        seen = []
        for some in part.parts():
            with torch.no_grad():
                given = heads.apply(
                    some.embeddings, some.present, self._copies[copy], ("features", "logits")
                )
                result = self._fusions[copy](**given, present=some.present)
            joint = self._joint_logits(copy, some) if self._joint else None
            seen.append((result.active, given["logits"], dict(result.signals), joint))
        active, logits, signals, joints = zip(*seen, strict=True)
        return _Seen(
            active=torch.cat(active),
            logits=torch.cat(logits),
            signals={name: torch.cat([own[name] for own in signals]) for name in signals[0]},
            labels=part.labels,
            weight=part.weight,
            priors=torch.from_numpy(self._priors[copy]).to(heads.device),
            joint=torch.cat(joints) if self._joint else None,
        )

    def _joint_logits(self, copy: int, part: Part) -> Tensor:
        heads = self._heads
        own = on_device(self._joint_arrays(copy), str(heads.device))
        own |= heads.unscaled(part.embeddings)
        with heads.ns.guard():
            found: Tensor = joint_logits(
                heads.ns, part.embeddings, part.present, own, modalities=heads.spec.modalities
            )
        return found

    # ------------------------------------------------------------------------------- parameters

    def _joint_arrays(self, copy: int) -> Arrays:
        result, start = {"joint.bias": self._joint["bias"][copy]}, 0
        for name, x in self._heads.rows.learn.embeddings.items():
            end = start + x.shape[1]
            result[f"joint.{name}.weight"] = self._joint["weight"][copy, start:end]
            start = end
        return result

    def artifact_arrays(self, found: Mapping[str, Any], copy: int) -> Arrays:
        """Gives what an artifact holds of all this."""
        result = {name.replace("/", "."): a for name, a in found.items() if name != _SHARE}
        result["fusion.prior"] = self._heads.rows.prior.astype(np.float32)
        result["fusion.priors"] = self._priors[copy]
        if _SHARE in found:
            share = 1.0 / (1.0 + np.exp(-np.asarray(found[_SHARE], dtype=np.float64)))
            result |= self._joint_arrays(copy) | {"joint.share": np.asarray(share, np.float32)}
        return {name: np.array(array) for name, array in result.items()}
