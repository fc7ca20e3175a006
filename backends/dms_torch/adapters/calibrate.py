"""Makes a scheduler from clean batches alone: no labels, no heads, nothing trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dms_spec.embeddings.typicality import Arrays, assume_trust, fit_place, stacked
from dms_spec.engine.warning import warn
from dms_spec.equations.typicality import log_distance
from dms_spec.errors import MissingInput, NonFiniteInput
from dms_spec.spec import SchedulerSpec
from dms_torch.adapters.attach import pool_tokens
from dms_torch.backend import torch_namespace
from dms_torch.fusion import Fusion

Floats = NDArray[np.floating]

#: Of every so many samples, one judges what is typical; the others say where it lies.
_HELD_BACK = 4
#: With fewer samples, there is no saying what is typical.
_LEAST = 40
#: With fewer samples that judge, the two ends of what is typical are little more than a guess.
_FEW = 100
#: So many clusters stand in for classes, if they have so many samples on average.
_MOST_CLUSTERS, _SMALLEST_CLUSTER = 16, 16
#: Relative to a feature's largest value: what differs by less differs by rounding.
_ROUNDING = 1e-4
#: Relative to a feature's deviation: finer than this, float32 cannot tell distances.
_FINEST = 1e-2


def calibrate(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    *,
    modalities: Sequence[str] = ("image", "text"),
) -> Fusion:
    """Makes a scheduler for `attach` from clean batches: no labels are needed, nothing is trained.

    It learns what is typical of the mean tokens of each modality: clusters with a covariance that
    they share, from three quarters of the samples. The rest, taken at random, say which distances
    occur. Where all modalities are typical, weights are neutral. The farther one lies from what is
    typical, the less weight it gets. How much less is an assumption
    (`dms_spec.embeddings.typicality.assume_trust`): without labels nobody knows what a distance
    costs.

    Args:
        model: As in `attach`, in the mode (`eval`) in which it will be used.
        batches: What the model is called with, 40 samples of each modality or more; 400 are enough
            for no warning. They should be as varied as what is to come: a question unlike all of
            these is untypical, and so is a photo after drawings.
        modalities: Names in the order of the weights.

    Returns:
        A scheduler with the policy ``linear`` on the signal ``typicality``, on the CPU.

    Raises:
        MissingInput: There are too few samples of a modality.
        NonFiniteInput: Tokens are NaN or Inf.
        UnsupportedCapability: The architecture is not known.

    Warns:
        DMSWarning: Few samples judge what is typical, or a modality is the same in all samples.
    """
    places: list[Arrays] = []
    trusts: list[Arrays] = []
    notes: list[str] = []
    features = _features(model, batches, modalities, notes)
    for name, rows in features.items():
        place, trust = _typical(name, rows, notes)
        places.append(place)
        trusts.append(trust)
    learned = stacked(places, max(rows.shape[1] for rows in features.values()))
    learned |= {key: np.stack([trust[key] for trust in trusts]) for key in trusts[0]}
    warn(notes, stacklevel=2)
    spec = SchedulerSpec(
        modalities=tuple(modalities),
        policy="linear",
        signals={"typicality": {}},
        coefficients={"typicality": 1.0},
        fusion="feature",
    )
    return Fusion(spec, {f"signals.typicality.{key}": array for key, array in learned.items()})


def _features(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    modalities: Sequence[str],
    notes: list[str],
) -> dict[str, Floats]:
    """Pools the tokens of every sample that has the modality, by modality ``[N, D_m]``."""
    found: dict[str, list[Floats]] = {name: [] for name in modalities}
    for batch in batches:
        with torch.no_grad():
            pooled = pool_tokens(model, batch, modalities)
        notes += [note for note in pooled.notes if note not in notes]
        for m, (name, rows) in enumerate(pooled.features.items()):
            found[name].append(rows[pooled.present[:, m]].float().cpu().numpy())
    if not all(found.values()):
        raise MissingInput("there are no batches to say what is typical")
    return {name: np.concatenate(rows) for name, rows in found.items()}


def _typical(name: str, rows: Floats, notes: list[str]) -> tuple[Arrays, Arrays]:
    """Fits the place of one modality, and the trust in what lies away from it."""
    if len(rows) < _LEAST:
        raise MissingInput(
            f"there are too few samples with {name!r} to say what is typical of it",
            expected=f"{_LEAST} or more",
            got=str(len(rows)),
        )
    bad = len(rows) - int(np.isfinite(rows).all(axis=1).sum())
    if bad:
        raise NonFiniteInput(
            f"tokens of {name!r} are NaN or Inf in {bad} samples", fix="Calibrate on clean samples."
        )
    least, spread = _ROUNDING * np.abs(rows).max(axis=0), rows.std(axis=0)
    if (spread <= least).all():
        notes.append(f"{name!r} is the same in all samples: all that it may be counts as typical")
        return fit_place(rows, np.zeros(len(rows), np.intp)), assume_trust(np.zeros(0))
    random = np.random.Generator(np.random.Philox(0))
    rows = random.permutation(rows)
    held, rest = np.split(rows, [len(rows) // _HELD_BACK])
    blur = np.maximum(least, _FINEST * spread)
    rest = rest + blur * random.normal(size=rest.shape)
    place = fit_place(rest, _clusters(rest))
    if len(held) < _FEW:
        notes.append(f"what is typical of {name!r} is known from {len(held)} validation rows")
    one = stacked([place], rows.shape[1])
    parameters = {key: torch.from_numpy(array) for key, array in one.items()}
    ns = torch_namespace("cpu")
    with ns.guard():
        distance = log_distance(ns, torch.from_numpy(held)[:, None], parameters)
    return place, assume_trust(distance[:, 0].numpy())


def _clusters(rows: Floats) -> NDArray[np.intp]:
    """Finds clusters, which stand in for classes ``[N]``."""
    from sklearn.cluster import KMeans

    count = max(1, min(_MOST_CLUSTERS, len(rows) // _SMALLEST_CLUSTER))
    found: NDArray[np.intp] = KMeans(count, n_init=1, random_state=0).fit_predict(rows)
    return found
