"""Computes the joint expert: one linear head over all modalities, believed if all are sound.

What two modalities say together may be more than what each says by itself. A head over all of them
knows it, but one corrupted input misleads it. So it speaks to the share of the probability that
everything is sound, and not at all where something is missing.
"""

from __future__ import annotations

from collections.abc import Mapping

from dms_spec.equations.heads import scaled
from dms_spec.equations.namespace import Namespace
from dms_spec.types import Array


def has_joint(parameters: Mapping[str, Array]) -> bool:
    """Says whether an artifact has a joint expert."""
    return "joint.share" in parameters


def joint_logits(
    ns: Namespace,
    embeddings: Mapping[str, Array],
    present: Array,
    parameters: Mapping[str, Array],
    *,
    modalities: tuple[str, ...],
) -> Array:
    """l = b + sum over present m of s_m W_m, s the scaled inputs: ``[B, C]``.

    Equation E26.

    Args:
        ns: The namespace to compute in.
        embeddings: ``[B, D_m]`` floating, by modality; anything where absent.
        present: bool ``[B, M]``.
        parameters: ``heads.<modality>.scale.zero`` and ``scale.unit``; ``joint.<modality>.weight``
            [D_m, C]; ``joint.bias`` [C].
        modalities: Names, in the order of the M axis.
    """
    xp = ns.xp
    wide = any(embeddings[name].dtype == xp.float64 for name in modalities)
    dtype = xp.float64 if wide else xp.float32
    own = {name: xp.astype(array, dtype, copy=False) for name, array in parameters.items()}
    total = own["joint.bias"]
    for m, name in enumerate(modalities):
        # Before any arithmetic: 0 * NaN is NaN.
        x = ns.select(present[:, m], xp.astype(embeddings[name], dtype, copy=False))
        s = scaled(x, own[f"heads.{name}.scale.zero"], own[f"heads.{name}.scale.unit"])
        said = xp.matmul(s, own[f"joint.{name}.weight"])
        total = total + ns.select(present[:, m], said)
    return total


def with_joint(
    ns: Namespace, probabilities: Array, soundness: Array, logits: Array, share: Array
) -> Array:
    """(1 - a) P + a softmax(l), a = lambda prod_m r_m: ``[B, C]``.

    r_m is the posterior soundness, 0 where m is not active: with something missing a is 0. So it
    is where the logits overflow. Equation E27.

    Args:
        ns: The namespace to compute in.
        probabilities: P of the evidence, ``[B, C]``.
        soundness: r, ``[B, M]``.
        logits: l of `joint_logits`, ``[B, C]``.
        share: lambda, in [0, 1].
    """
    xp = ns.xp
    heard = ns.usable(logits=logits[:, None, :])
    sound = xp.prod(soundness, axis=-1, keepdims=True)
    a = ns.select(heard, xp.astype(share, sound.dtype, copy=False) * sound)
    said = ns.softmax(ns.select(heard[:, 0], logits))
    return (1.0 - a) * probabilities + a * xp.astype(said, probabilities.dtype, copy=False)
