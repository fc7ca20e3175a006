"""Turns a schedule into class probabilities, with the joint expert where an artifact has one."""

from __future__ import annotations

from collections.abc import Mapping

from dms_spec.equations.heads import class_probabilities
from dms_spec.equations.joint import has_joint, joint_logits, with_joint
from dms_spec.equations.namespace import Namespace
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, Schedule


def schedule_probabilities(
    ns: Namespace,
    spec: SchedulerSpec,
    schedule: Schedule,
    embeddings: Mapping[str, Array],
    present: Array,
    parameters: Mapping[str, Array],
    prior: Array,
) -> Array:
    """Computes class probabilities of the rows behind a schedule, ``[B, C]``.

    Args:
        ns: The namespace to compute in, guarded.
        spec: The scheduler's.
        schedule: What it made of the rows.
        embeddings: ``[B, D_m]`` by modality.
        present: bool ``[B, M]``.
        parameters: Of the artifact: the heads', and what `class_probabilities` and `joint_logits`
            read.
        prior: Class frequencies ``[C]``: the answer for a row in which nothing is active.
    """
    probabilities = class_probabilities(
        ns, schedule.fused, schedule.active, level=spec.fusion, parameters=parameters, prior=prior
    )
    if schedule.soundness is None or not has_joint(parameters):
        return probabilities
    logits = joint_logits(ns, embeddings, present, parameters, modalities=spec.modalities)
    share = parameters["joint.share"]
    return with_joint(ns, probabilities, schedule.soundness, logits, share)
