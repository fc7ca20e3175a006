"""Lists cases of the policies."""

from __future__ import annotations

from collections.abc import Iterator

from golden.cases import NEEDS, Case, batch, draw, only, spec


def l_policies() -> Iterator[Case]:
    arrays = batch("policies")
    mask = {"present": [[1, 1, 1], [1, 0, 1]]}
    anchor = {"signals.anchored_alignment.anchor": draw("anchor", 2)}
    every = spec(3, signals={name: {} for name in NEEDS}, coefficients=dict.fromkeys(NEEDS, 0.5))
    yield Case("DMS-L-003 DMS-L-001", "linear over all signals", every, arrays | mask, anchor)
    some = spec(
        3,
        signals={"confidence": {}, "uncertainty": {}, "alignment": {}},
        coefficients={"uncertainty": 4.0, "confidence": 0.0},
    )
    yield Case(
        "DMS-L-003", "a coefficient of 0, and a signal that is not weighed", some, arrays | mask
    )
    yield Case("DMS-L-003", "linear without coefficients", spec(3), only(arrays, "features") | mask)
    features = only(arrays, "features") | mask
    bias = {"policy.bias": draw("bias", 3)}
    yield Case("DMS-L-002", "static with a bias", spec(3, "static"), features, bias)
    yield Case("DMS-L-002 DMS-W-007", "static without a bias", spec(3, "static"), features)
    dropout = spec(3, "modality_dropout", policy_options={"rate": 0.5})
    yield Case("DMS-L-006 DMS-W-007", "modality dropout, not in training", dropout, features)


def l_co_attention() -> Iterator[Case]:
    plain = spec(3, "co_attention")
    arrays = {"features": draw("attention", 3, 3, 4, span=1.0)}
    mask = {"present": [[1, 1, 1], [1, 0, 1], [0, 1, 0]]}
    query = {
        "policy.query": draw("query", 4, 2, span=1.0),
        "policy.key": draw("key", 4, 2, span=1.0),
    }
    yield Case("DMS-L-005", "without parameters", plain, arrays)
    yield Case("DMS-L-005", "without parameters, some absent", plain, arrays | mask)
    yield Case("DMS-L-005", "query and key, narrower than the features", plain, arrays, query)
    yield Case("DMS-L-005", "query and key, some absent", plain, arrays | mask, query)
    none = arrays | {"present": [[0, 0, 0], [1, 1, 1], [0, 0, 0]]}
    yield Case("DMS-L-005 DMS-P-007", "nothing present", plain, none, query)
    yield Case(
        "DMS-L-005", "two modalities", spec(2, "co_attention"), only(batch("two", m=2), "features")
    )
    steep = {"features": draw("steep attention", 2, 3, 2, span=16.0)}
    yield Case("DMS-L-005", "steep attention", plain, steep)


def l_learned() -> Iterator[Case]:
    signals = {"energy": {}, "uncertainty": {"reduction": "sum"}, "alignment": {}}
    weighed = {"uncertainty": 1.0, "energy": 1.0}  # in another order than the signals
    arrays = batch("learned") | {"present": [[1, 1, 1], [1, 0, 1]]}
    theta = {"policy.theta": draw("theta", 2)}
    network = {
        "policy.hidden_weight": draw("hidden weight", 2, 3),
        "policy.hidden_bias": draw("hidden bias", 3),
        "policy.output_weight": draw("output weight", 3),
    }
    own = theta | {"policy.bias": draw("bias", 3)}
    for clause, policy, parameters in (
        ("DMS-L-007", "learned_linear", own),
        ("DMS-L-008", "residual_mlp", theta | network),
        ("DMS-L-009", "monotone", theta | network),
    ):
        learned = spec(3, policy, signals=signals, coefficients=weighed)
        yield Case(clause, f"{policy}, drawn", learned, arrays, parameters)
        large = {name: 16 * array for name, array in parameters.items()}
        yield Case(clause, f"{policy}, large parameters", learned, arrays, large)


CASES = (
    l_co_attention,
    l_learned,
    l_policies,
)
