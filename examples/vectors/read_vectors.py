"""Reads the golden vectors with nothing but Python: ``python read_vectors.py [FOLDER]``.

`weights` below knows the policies `linear` and `static` over the signals of the preset `paper`.
Put your own in its place: it gets a spec as plain data, and lists of floats.
"""

import json
import sys
from importlib.resources import files
from math import exp, isfinite, isnan, log, sqrt
from pathlib import Path


def read(array):
    """Reads the numbers of an array, nested as its shape says; the last axis runs fastest."""
    flat = [float.fromhex(x) if isinstance(x, str) else x for x in array["values"]]
    for size in reversed(array["shape"][1:]):
        flat = [flat[i : i + size] for i in range(0, len(flat), size)]
    return flat


def conforms(vector):
    """Says whether the weights are right: to the bit where they must be, or within k eps scale."""
    arrays = {name: read(array) for name, array in vector["arrays"].items()}
    parameters = {name: read(array) for name, array in vector["parameters"].items()}
    got = [w for row in weights(vector["spec"], arrays, parameters) for w in row]
    expected, active = vector["expected"]["weights"], vector["active"]["values"]
    values, scales = ([float.fromhex(x) for x in expected[key]] for key in ("values", "scale"))
    unit = float.fromhex(vector["k"]) * float.fromhex(vector["eps"])
    rows = zip(got, values, scales, active, strict=True)
    return all(abs(w - r) <= unit * scale if on else w == 0 for w, r, scale, on in rows)


def main(folder):
    count, wrong = 0, []
    for path in sorted((p for p in folder.iterdir() if p.name.endswith(".json")), key=str):
        for vector in json.loads(path.read_text("utf-8"))["vectors"]:
            # Left out: what is refused, batches of no samples, and what is not implemented below.
            if vector["refusal"] or not vector["active"]["values"] or not knows(vector["spec"]):
                continue
            count += 1
            if not conforms(vector):
                wrong.append(f"{vector['clauses'][0]}: {vector['description']}")
    print(*wrong, f"{count - len(wrong)} of {count} vectors passed", sep="\n")
    return bool(wrong) or not count


# ------------------------------------------------------------------------------ an implementation


def knows(spec):
    known = {"confidence", "uncertainty", "alignment"}
    return spec["policy"] in ("linear", "static") and set(spec["signals"]) <= known


def weights(spec, arrays, parameters):
    first = arrays.get("features") or arrays["logits"]
    return [sample(spec, arrays, parameters, b) for b in range(len(first))]


def sample(spec, arrays, parameters, b):
    h, logits = (arrays[name][b] if name in arrays else None for name in ("features", "logits"))
    passes = [rows[b] for rows in arrays.get("mc_logits", [])]
    everyone = range(len(spec["modalities"]))
    there = arrays["present"][b] if "present" in arrays else [True for _ in everyone]

    def usable(m):
        rows = [rows[m] for rows in (logits, *passes) if rows]
        finite = all(isfinite(x) for x in h[m]) if h else True
        return finite and all(not any(map(isnan, r)) and isfinite(max(r)) for r in rows)

    active = [m for m in everyone if there[m] and usable(m)]
    scores = []
    for m in active:
        bias = parameters.get("policy.bias")
        score = bias[m] if bias else 0.0
        for name, coefficient in spec["coefficients"].items():
            options = spec["signals"][name]
            if name == "confidence":
                score += coefficient * confidence(logits[m], **options)
            elif name == "uncertainty":
                score -= coefficient * uncertainty([rows[m] for rows in passes], **options)
            else:
                score += coefficient * alignment(h[m], [h[n] for n in active if n != m])
        scores.append(score)
    share = dict(zip(active, softmax(scores), strict=True)) if active else {}
    return [share.get(m, 0.0) for m in everyone]


def softmax(row):
    e = [exp(x - max(row)) for x in row]
    return [x / sum(e) for x in e]


def confidence(row, normalize=True):
    entropy = -sum(p * log(p) for p in softmax(row) if p > 0)
    return 1 - entropy / (log(len(row)) if normalize and len(row) > 1 else 1)


def uncertainty(rows, reduction="mean"):
    if len(rows) < 2:
        return 0.0
    total = 0.0
    for column in zip(*map(softmax, rows), strict=True):
        mean = sum(column) / len(column)
        total += sum((p - mean) ** 2 for p in column) / len(column)
    return total / len(rows[0]) if reduction == "mean" else total


def alignment(x, others):
    y = [sum(column) for column in zip(*others, strict=True)] or [0.0]
    # Over the largest entry, so that squares neither overflow nor vanish.
    x, y = ([a / (max(map(abs, v)) or 1) for a in v] for v in (x, y))
    length = sqrt(sum(a * a for a in x)) * sqrt(sum(b * b for b in y))
    return sum(a * b for a, b in zip(x, y, strict=True)) / length if length else 0.0


if __name__ == "__main__":
    given = [Path(folder) for folder in sys.argv[1:]]
    sys.exit(main(*given or [files("dms_spec.conformance") / "vectors"]))
