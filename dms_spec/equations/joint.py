"""Computes the joint expert: one linear head over all modalities, believed if all are sound.

What two modalities say together may be more than what each says by itself. A head over all of them
knows it, but one corrupted input misleads it. So it speaks to the share of the probability that
everything is sound, and not at all where something is missing.
"""

from __future__ import annotations

from collections.abc import Mapping

from dms_spec.equations.heads import head_inputs
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
    inputs = head_inputs(ns, embeddings, present, parameters, modalities=modalities)
    return joint_of_inputs(ns, inputs, present, parameters, modalities=modalities)


def joint_of_inputs(
    ns: Namespace,
    inputs: Mapping[str, Array],
    present: Array,
    parameters: Mapping[str, Array],
    *,
    modalities: tuple[str, ...],
) -> Array:
    """Computes what `joint_logits` computes from inputs that `head_inputs` has scaled."""
    xp, dtype = ns.xp, inputs[modalities[0]].dtype
    total = xp.astype(parameters["joint.bias"], dtype, copy=False)
    for m, name in enumerate(modalities):
        weight = xp.astype(parameters[f"joint.{name}.weight"], dtype, copy=False)
        total = total + ns.select(present[:, m], xp.matmul(inputs[name], weight))
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
