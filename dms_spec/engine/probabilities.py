"""Turns a schedule into class probabilities, with the joint expert where an artifact has one."""

from __future__ import annotations

from collections.abc import Mapping

from dms_spec.equations.heads import class_probabilities
from dms_spec.equations.joint import has_joint, joint_of_inputs, with_joint
from dms_spec.equations.namespace import Namespace
from dms_spec.spec import SchedulerSpec
from dms_spec.types import Array, Schedule

#: What is noted where a joint expert is not heard.
OVERFLOW = "some rows have no joint expert, since its logits overflow"


def joint_said(
    ns: Namespace,
    spec: SchedulerSpec,
    schedule: Schedule,
    inputs: Mapping[str, Array],
    present: Array,
    parameters: Mapping[str, Array],
) -> Array | None:
    """Computes the logits ``[B, C]`` of a joint expert; None without one, or where none counts.

    Args:
        ns: The namespace to compute in, guarded.
        spec: The scheduler's.
        schedule: What it made of the rows.
        inputs: What `head_inputs` made of their embeddings.
        present: bool ``[B, M]``.
        parameters: Of the artifact; `joint_of_inputs` reads some.
    """
    if schedule.soundness is None or not has_joint(parameters):
        return None
    return joint_of_inputs(ns, inputs, present, parameters, modalities=spec.modalities)


def joint_notes(ns: Namespace, schedule: Schedule, said: Array | None) -> tuple[str, ...]:
    """Notes of rows where everything is there and a joint expert is left out (DMS-D-008)."""
    if said is None:
        return ()
    xp = ns.xp
    lost = ~ns.usable(logits=said[:, None, :])[:, 0] & xp.all(schedule.active, axis=-1)
    return (OVERFLOW,) if bool(xp.any(lost)) else ()


def schedule_probabilities(
    ns: Namespace,
    spec: SchedulerSpec,
    schedule: Schedule,
    said: Array | None,
    parameters: Mapping[str, Array],
    prior: Array,
) -> Array:
    """Computes class probabilities of the rows behind a schedule, ``[B, C]``.

    Args:
        ns: The namespace to compute in, guarded.
        spec: The scheduler's.
        schedule: What it made of the rows.
        said: What `joint_said` gives.
        parameters: Of the artifact: what `class_probabilities` reads, and the joint expert's share.
        prior: Class frequencies ``[C]``: the answer for a row in which nothing is active.
    """
    probabilities = class_probabilities(
        ns, schedule.fused, schedule.active, level=spec.fusion, parameters=parameters, prior=prior
    )
    if schedule.soundness is None or said is None:
        return probabilities
    return with_joint(ns, probabilities, schedule.soundness, said, parameters["joint.share"])
