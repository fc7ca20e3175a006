"""Lists cases of presets and presence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dms_spec.spec import SchedulerSpec
from golden.cases import INF, NAN, PAPER, Case, batch, draw, ln, names, only


def a_presets() -> Iterator[Case]:
    features = [[1.0, 0.0], [0.6, 0.8], [-1.0, 0.5]]
    logits = ln([[0.7, 0.2, 0.1], [0.4, 0.3, 0.3], [0.05, 0.9, 0.05]])
    passes = ln(
        [
            [[0.6, 0.3, 0.1], [0.4, 0.3, 0.3], [0.1, 0.8, 0.1]],
            [[0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [0.0, 1.0, 0.0]],
        ]
    )
    arrays = {
        "features": np.repeat([features], 3, axis=0),
        "logits": np.repeat([logits], 3, axis=0),
        "mc_logits": np.repeat(passes[:, None], 3, axis=1),
        "present": [[1, 1, 1], [1, 1, 0], [1, 0, 0]],
    }
    yield Case("DMS-A-007 DMS-W-002 DMS-F-001", "the worked example", PAPER, arrays)
    static = SchedulerSpec.preset("static", names(3))
    features_alone = {"features": draw("static", 2, 3, 3), "present": [[1, 1, 1], [0, 1, 1]]}
    yield Case("DMS-A-008 DMS-W-007", "preset static, drawn", static, features_alone)
    robust = SchedulerSpec.preset("robust", names(3))
    drawn = only(batch("robust"), "logits")
    yield Case("DMS-F-005 DMS-L-010", "preset robust without parameters, drawn", robust, drawn)


def p_presence() -> Iterator[Case]:
    present = np.array([[1, 1, 0], [0, 1, 1]], dtype=bool)

    def filled(name: str, filler: float) -> dict:
        arrays = batch(name, c=2)
        for role in ("features", "logits", "mc_logits"):
            arrays[role][..., ~present, :] = filler
        return arrays | {"present": present}

    ids = "DMS-P-002 DMS-P-001 DMS-P-009"
    for word, filler in (("NaN", NAN), ("infinity", INF), ("minus infinity", -INF)):
        yield Case(ids, f"absent, filled with {word}", PAPER, filled("absent", filler))
    yield Case(
        "DMS-P-003",
        "without the mask, every modality is present",
        PAPER,
        batch("no mask", b=1, c=2),
    )
    alone = batch("one present", b=3, c=2) | {"present": np.eye(3, dtype=bool)}
    yield Case("DMS-W-003 DMS-P-001", "one modality present, each in turn", PAPER, alone)
    nothing = batch("none present", c=2) | {"present": [[0, 0, 0], [1, 1, 1]]}
    nothing["logits"][0, 0] = NAN
    for fusion in ("feature", "logit", "probability"):
        yield Case(
            "DMS-P-007", f"nothing present, {fusion} level", PAPER.replace(fusion=fusion), nothing
        )
    evidence = SchedulerSpec(modalities=names(3), policy="soundness", fusion="evidence")
    logits = {role: nothing[role] for role in ("logits", "present")}
    yield Case("DMS-P-007", "nothing present, evidence level", evidence, logits)

    def nonfinite(role: str, *entries: tuple[tuple, float]) -> dict:
        arrays = batch(f"spoilt {role}", b=3, c=2)  # the text seeds the numbers
        for where, value in entries:
            arrays[role][where] = value
        return arrays

    ids = "DMS-P-004 DMS-P-005"
    one = [((0, 0, 1), NAN), ((1, 1, 0), INF), ((2, 2, 0), -INF)]
    yield Case(ids, "NaN, Inf or -Inf in one feature", PAPER, nonfinite("features", *one))
    one = [((0, 0, 1), NAN), ((1, 1, 0), INF), ((2, 2), -INF)]
    yield Case(ids, "NaN, Inf or nothing but -Inf in logits", PAPER, nonfinite("logits", *one))
    one = [((0, 0, 0, 1), NAN), ((1, 1, 1, 0), INF), ((0, 2, 2), -INF)]
    yield Case(ids, "NaN, Inf or nothing but -Inf in one pass", PAPER, nonfinite("mc_logits", *one))
    mixed = nonfinite("logits", ((0, 0), -INF), ((0, 0, 1), NAN), ((1, 1), -INF), ((1, 1, 0), INF))
    yield Case(ids, "NaN or Inf among -Inf in logits", PAPER, mixed)
    single = nonfinite("logits", ((0, 0, 1), -INF), ((1, 1, 0), -INF))
    single["mc_logits"][0, 2, 0, 0] = single["mc_logits"][1, 2, 1, 1] = -INF
    yield Case("DMS-P-004 DMS-N-004", "single -Inf logits are legal", PAPER, single)
    unread = only(batch("unread", c=2), "features", "logits")
    unread["logits"][0, 1, 0] = NAN
    yield Case(
        "DMS-P-004",
        "not finite where no signal reads it",
        SchedulerSpec.preset("static", names(3)),
        unread,
    )
    lone = batch("lone pass", c=2, t=1)
    lone["mc_logits"][0, 1, 2, 1] = NAN
    yield Case(
        "DMS-P-004 DMS-Q-004", "the only pass is not finite, and has no variance", PAPER, lone
    )
    gone = nonfinite("features", ((0, slice(None), 0), NAN))
    yield Case("DMS-P-005 DMS-P-007", "no modality of a sample is finite", PAPER, gone)
    raises, strict = PAPER.replace(nonfinite="raise"), PAPER.replace(strict=True)
    yield Case(
        "DMS-P-006", "nonfinite raise: refused", raises, nonfinite("features", ((0, 0, 1), NAN))
    )
    yield Case(
        "DMS-P-006", "nonfinite raise: NaN in an absent modality", raises, filled("legal", NAN)
    )
    yield Case(
        "DMS-P-008",
        "strict: refused",
        strict,
        batch("strict", c=2) | {"present": [[1, 1, 1], [0, 0, 0]]},
    )
    yield Case(
        "DMS-P-008",
        "strict: accepted",
        strict,
        batch("strict", c=2) | {"present": [[1, 1, 1], [0, 0, 1]]},
    )


CASES = (
    a_presets,
    p_presence,
)
