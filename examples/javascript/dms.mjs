// The core of dms-spec, edition 2026.11, in plain JavaScript: written from the text of the
// specification, sample by sample, in float64. Numbers like E2 and DMS-P-004 are those of the text.

/**
 * Numbers in the order of C, the last axis fastest.
 * @typedef {{shape: number[], values: number[]}} NDArray
 *
 * The batch: features [B, M, D], logits [B, M, C], mc_logits [T, B, M, C], present [B, M].
 * @typedef {{features?: NDArray, logits?: NDArray, mc_logits?: NDArray, present?: NDArray}} Batch
 *
 * The spec object, as its JSON.
 * @typedef {{modalities: string[], policy: string, signals: Object<string, Object>,
 *   coefficients: Object<string, number>, fusion: string, nonfinite?: string,
 *   strict?: boolean}} Spec
 *
 * One sample: a vector for each modality, or null where the array is not given. Of the passes,
 * one such list for each.
 * @typedef {{features: number[][]?, logits: number[][]?, passes: number[][][],
 *   present: boolean[], members: number[]}} Sample
 *
 * Everything but fused is [B][M]; fused is [B][D] or [B][C]. Soundness is there where evidence is
 * fused.
 * @typedef {{active: boolean[][], scores: number[][], weights: number[][], fused: number[][],
 *   signals: Object<string, number[][]>, terms: Object<string, number[][]>,
 *   soundness?: number[][]}} Schedule
 */

/** A present modality is not finite (DMS-P-006), or a score is no number to rank by (DMS-W-008). */
export class NonFiniteInput extends RangeError {}

/** A sample has nothing active, and the spec is strict (DMS-P-008). */
export class NothingPresent extends RangeError {}

/**
 * Schedules a batch.
 * @param {Spec} spec
 * @param {Batch} batch
 * @param {Object<string, NDArray>} parameters by full name, such as "policy.bias"
 * @returns {Schedule}
 */
export function schedule(spec, batch, parameters = {}) {
  const size = (batch.features ?? batch.logits).shape[0];
  const results = [];
  for (let b = 0; b < size; b++) {
    results.push(scheduleSample(spec, sampleOf(batch, b, spec.modalities.length), parameters, b));
  }
  const named = (key, names) =>
    Object.fromEntries(names.map((name) => [name, results.map((r) => r[key][name])]));
  return {
    active: results.map((r) => r.active),
    scores: results.map((r) => r.scores),
    weights: results.map((r) => r.weights),
    fused: results.map((r) => r.fused),
    ...(spec.fusion === "evidence" ? { soundness: results.map((r) => r.soundness) } : {}),
    signals: named("signals", Object.keys(spec.signals)),
    terms: named("terms", Object.keys(results[0]?.terms ?? {})),
  };
}

/**
 * @param {Spec} spec
 * @param {Sample} sample
 * @param {Object<string, NDArray>} parameters
 * @param {number} b which sample it is, for messages
 */
function scheduleSample(spec, sample, parameters, b) {
  const modalities = spec.modalities.map((_, m) => m);
  const active = modalities.map((m) => sample.present[m] && usable(sample, m));
  const members = modalities.filter((m) => active[m]);
  sample = { ...sample, members };
  const where = (m) => `sample ${b}, modality '${spec.modalities[m]}'`;
  for (const m of modalities) {
    if (spec.nonfinite === "raise" && sample.present[m] && !active[m]) {
      throw new NonFiniteInput(`a present modality is not finite: ${where(m)}`);
    }
  }
  if (spec.strict && members.length === 0) {
    throw new NothingPresent(`nothing is active in sample ${b}`);
  }

  // What is not active is never looked at: its signals and terms are 0, its score minus infinity.
  const overActive = (f) => modalities.map((m) => (active[m] ? f(m) : 0));
  const signals = {};
  for (const [name, options] of Object.entries(spec.signals)) {
    const signal = lookUp(SIGNALS, name, "signal");
    const own = under(parameters, `signals.${name}.`);
    signals[name] = overActive((m) => signal.value(sample, m, options, own));
  }
  const policy = lookUp(POLICIES, spec.policy, "policy");
  const terms = {};
  for (const [name, term] of Object.entries(
    policy({ spec, sample, signals, parameters: under(parameters, "policy.") }),
  )) {
    terms[name] = overActive(term);
  }
  const scores = modalities.map((m) =>
    active[m] ? sum(Object.values(terms).map((term) => term[m])) : -Infinity,
  );
  for (const m of members) {
    if (Number.isNaN(scores[m]) || scores[m] === Infinity) {
      throw new NonFiniteInput(`a score is ${scores[m]}: ${where(m)}`);
    }
  }
  const found = { active, scores, signals, terms };
  const weigh = (values) => {
    const shares = softmax(members.map((m) => values[m])); // E6
    return modalities.map((m) => (active[m] ? shares[members.indexOf(m)] : 0));
  };
  if (spec.fusion === "evidence") {
    const { fused, logSoundness } = believe(sample, scores, under(parameters, "fusion."));
    const soundness = overActive((m) => Math.exp(logSoundness[m]));
    return { ...found, fused, soundness, weights: weigh(logSoundness) };
  }
  const weights = weigh(scores);
  return { ...found, weights, fused: fuse(spec.fusion, sample, weights) };
}

/** Whether a modality carries numbers that mean something (DMS-P-004). */
function usable({ features, logits, passes }, m) {
  const rows = [logits, ...passes].filter((rows) => rows !== null).map((rows) => rows[m]);
  // Math.max gives NaN if any entry is NaN.
  return (
    (features === null || features[m].every(Number.isFinite)) &&
    rows.every((row) => Number.isFinite(Math.max(...row)))
  );
}

/** The weighted sum over the active modalities, at one of three levels: E1, E14, E15. */
function fuse(level, { features, logits, members }, weights) {
  const rows = level === "feature" ? features : logits;
  const summed = level === "probability" ? (m) => softmax(rows[m]) : (m) => rows[m];
  const parts = members.map((m) => [weights[m], summed(m)]);
  return rows[0].map((_, k) =>
    // A class that is ruled out stays so, however small the weight (DMS-F-002).
    parts.some(([, row]) => row[k] === -Infinity)
      ? -Infinity
      : sum(parts.map(([weight, row]) => weight * row[k])),
  );
}

/** Bounded evidence, and the log of how far each active modality was believed: E24, E25. */
function believe({ logits, members }, scores, { prior, priors, redundancy }) {
  const classes = logits[0].map((_, y) => y);
  if (members.length === 0) return { fused: classes.map(() => 0), logSoundness: [] };
  const uniform = classes.map(() => 1 / classes.length);
  const pi = prior ? prior.values : uniform;
  const parts = members.map((m) => {
    const logTrust = Math.min(scores[m], Math.log1p(-1e-6));
    const logDoubt = Math.log(-Math.expm1(logTrust));
    const said = logRatios(logits[m], priors ? matrix(priors)[m] : uniform);
    const factors = said.map((q) => logSumExp([logDoubt, logTrust + q]));
    return { m, logTrust, factors, sound: said.map((q, y) => logTrust + q - factors[y]) };
  });
  const rho = redundancy ? softplus(redundancy.values[0]) : 0.2;
  const trusted = Math.max(1, sum(parts.map(({ logTrust }) => Math.exp(logTrust))));
  const kappa = 1 / (1 + rho * (trusted - 1));
  const possible = classes.filter((y) => pi[y] > 0);
  const total = possible.map(
    (y) => Math.log(pi[y]) + kappa * sum(parts.map(({ factors }) => factors[y])),
  );
  const whole = logSumExp(total);
  const logSoundness = [];
  for (const { m, sound } of parts) {
    logSoundness[m] = Math.min(0, logSumExp(possible.map((y, i) => total[i] - whole + sound[y])));
  }
  const fused = classes.map(() => 0);
  possible.forEach((y, i) => (fused[y] = Math.exp(total[i] - whole)));
  return { fused, logSoundness };
}

/** log p / pi over the classes that a modality knows; 0, which says nothing, for the others. */
function logRatios(row, prior) {
  const heard = row.filter((x, y) => prior[y] > 0 && x > -Infinity);
  if (heard.length === 0) return row.map(() => 0);
  const top = Math.max(...heard);
  const whole = Math.log(sum(heard.map((x) => Math.exp(x - top))));
  return row.map((x, y) =>
    prior[y] > 0 ? Math.max(x - top - whole - Math.log(prior[y]), -1e4) : 0,
  );
}

// ---------------------------------------------------------------------------------------- signals

/**
 * Each signal: its direction, and its value for one active modality.
 * @type {Object<string, {direction: 1 | -1,
 *   value: (sample: Sample, m: number, options: Object, own: Object<string, NDArray>) => number}>}
 */
const SIGNALS = {
  // E2
  confidence: {
    direction: 1,
    value({ logits }, m, { normalize = true }) {
      const classes = logits[m].length;
      if (!normalize) return 1 - entropy(softmax(logits[m]));
      return classes === 1 ? 1 : clip(1 - entropy(softmax(logits[m])) / Math.log(classes), 0, 1);
    },
  },
  // E3
  uncertainty: {
    direction: -1,
    value({ passes }, m, { reduction = "mean" }) {
      if (passes.length < 2) return 0;
      const p = passes.map((rows) => softmax(rows[m]));
      const mean = meanOf(p);
      const total = sum(p.map((row) => sum(row.map((x, k) => (x - mean[k]) ** 2)))) / p.length;
      return reduction === "mean" ? total / mean.length : total;
    },
  },
  // E8, in its second form, which does not subtract two entropies that are nearly equal
  mutual_information: {
    direction: -1,
    value({ passes }, m) {
      if (passes.length < 2) return 0;
      const p = passes.map((rows) => softmax(rows[m]));
      const mean = meanOf(p);
      return Math.max(0, sum(p.map((row) => divergence(row, mean))) / p.length);
    },
  },
  // E4
  alignment: {
    direction: 1,
    value({ features, members }, m) {
      const others = members.filter((n) => n !== m).map((n) => features[n]);
      return others.length ? cosine(features[m], columns(others).map(sum)) : 0;
    },
  },
  // E9
  anchored_alignment: {
    direction: 1,
    value({ features }, m, options, { anchor }) {
      const rows = anchor.shape.length === 1 ? anchor.values : matrix(anchor)[m];
      return cosine(features[m], rows);
    },
  },
  // E10
  agreement: {
    direction: 1,
    value({ logits, members }, m) {
      const others = members.filter((n) => n !== m).map((n) => softmax(logits[n]));
      if (others.length === 0) return 0;
      const p = softmax(logits[m]);
      const q = meanOf(others);
      const middle = meanOf([p, q]);
      const shannon = (divergence(p, middle) + divergence(q, middle)) / 2;
      return clip(1 - shannon / Math.LN2, 0, 1);
    },
  },
  // E22
  corroboration: {
    direction: 1,
    value({ logits, members }, m) {
      const others = members.filter((n) => n !== m).map((n) => softmax(logits[n]));
      if (others.length === 0) return 0;
      const p = softmax(logits[m]);
      return clip(Math.exp(-divergence(p, meanOf([p, meanOf(others)]))), 0.5, 1);
    },
  },
  // E21
  typicality: {
    direction: 1,
    value({ features }, m, options, own) {
      if (!own.band) return 0; // nobody has fitted it (DMS-Q-014)
      const [low, high] = matrix(own.band)[m];
      const [steepness, onset] = matrix(own.loss)[m];
      const distance = logDistance(features[m], m, own);
      const excess = Math.max(0, distance - high) + Math.max(0, low - distance);
      return Math.min(0, softplus(-steepness * onset) - softplus(steepness * (excess - onset)));
    },
  },
  // E11
  energy: {
    direction: 1,
    value({ logits }, m, { temperature = 1 }) {
      const top = Math.max(...logits[m]);
      const e = logits[m].map((x) => Math.exp((x - top) / temperature));
      return top + temperature * Math.log(sum(e));
    },
  },
};

// --------------------------------------------------------------------------------------- policies

/**
 * Each policy: from signals and parameters to named terms, functions of an active modality.
 * @type {Object<string, (given: {spec: Spec, sample: Sample, signals: Object<string, number[]>,
 *   parameters: Object<string, NDArray>}) => Object<string, (m: number) => number>>}
 */
const POLICIES = {
  // E12
  static({ parameters: { bias } }) {
    return bias ? { bias: (m) => bias.values[m] } : {};
  },
  // E23
  soundness({ spec, signals, parameters: { doubt, exponent } }) {
    const terms = { doubt: () => (doubt ? -softplus(doubt.values[0]) : Math.log(0.9)) };
    for (const [name, coefficient] of Object.entries(spec.coefficients)) {
      terms[name] = (m) =>
        (exponent ? softplus(exponent.values[m]) : 1) * coefficient * signals[name][m];
    }
    return terms;
  },
  // Uniform: what is dropped is dropped in training alone (DMS-L-006).
  modality_dropout() {
    return {};
  },
  // E5
  linear({ spec, signals }) {
    const terms = {};
    for (const [name, coefficient] of Object.entries(spec.coefficients)) {
      terms[name] = (m) => SIGNALS[name].direction * coefficient * signals[name][m];
    }
    return terms;
  },
  // E13
  co_attention({ sample: { features, members }, parameters: { query, key } }) {
    const project = (row, by) => (by ? columns(matrix(by)).map((column) => dot(row, column)) : row);
    const q = members.map((m) => project(features[m], query));
    const k = members.map((m) => project(features[m], key));
    const attention = q.map((x) => softmax(k.map((y) => dot(x, y) / Math.sqrt(x.length))));
    const received = (m) => attention.map((row) => row[members.indexOf(m)]);
    return { attention: (m) => Math.log(sum(received(m)) / members.length) };
  },
  // E16
  learned_linear(given) {
    const { bias } = given.parameters;
    return { ...learnedTerms(given), bias: (m) => bias.values[m] };
  },
  // E17
  residual_mlp(given) {
    return { ...learnedTerms(given), residual: network(given, (x) => x) };
  },
  // E18
  monotone(given) {
    if (!given.parameters.theta) return POLICIES.linear(given); // nobody has fitted it
    return { ...learnedTerms(given), rising: network(given, softplus) };
  },
};

/** The weighed signals, signed so that more is more trust, in the order of the coefficients. */
function towardsTrust({ spec, signals }) {
  return Object.keys(spec.coefficients).map(
    (name) => (m) => SIGNALS[name].direction * signals[name][m],
  );
}

function learnedTerms(given) {
  const { theta } = given.parameters;
  const y = towardsTrust(given);
  const names = Object.keys(given.spec.coefficients);
  return Object.fromEntries(
    names.map((name, j) => [name, (m) => softplus(theta.values[j]) * y[j](m)]),
  );
}

/** The small network of E17 and E18; `bend` is what makes its weights positive in the latter. */
function network(given, bend) {
  const { hidden_weight, hidden_bias, output_weight } = given.parameters;
  const y = towardsTrust(given);
  const weight = matrix(hidden_weight);
  const unit = (h, m) =>
    Math.tanh(sum(y.map((f, j) => bend(weight[j][h]) * f(m))) + hidden_bias.values[h]);
  return (m) => sum(output_weight.values.map((v, h) => bend(v) * unit(h, m)));
}

// ------------------------------------------------------------------------------------- arithmetic

const sum = (values) => values.reduce((total, x) => total + x, 0);
const clip = (x, low, high) => Math.min(Math.max(x, low), high);
const dot = (x, y) => sum(x.map((value, k) => value * y[k]));
const columns = (rows) => rows[0].map((_, k) => rows.map((row) => row[k]));
const meanOf = (rows) => columns(rows).map((column) => sum(column) / rows.length);

/** Probabilities; the largest entry is subtracted first, so that nothing overflows. */
function softmax(row) {
  const top = Math.max(...row);
  const e = row.map((x) => Math.exp(x - top));
  const total = sum(e);
  return e.map((x) => x / total);
}

/** The log of a sum of exponentials, which may all be too small for a number. */
function logSumExp(values) {
  const top = Math.max(...values);
  return top + Math.log(sum(values.map((x) => Math.exp(x - top))));
}

/** H(p) in nats, with 0 log 0 = 0. */
const entropy = (p) => -sum(p.map((x) => (x > 0 ? x * Math.log(x) : 0)));

/** KL(p || q) in nats. */
const divergence = (p, q) =>
  sum(p.map((x, k) => (x > 0 ? x * (Math.log(x) - Math.log(q[k])) : 0)));

/** log(1 + exp x). */
const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

/** Cosine of the angle between two vectors, 0 if either is zero. */
function cosine(x, y) {
  const [a, b] = [unitScaled(x), unitScaled(y)];
  if (!a.some(Boolean) || !b.some(Boolean)) return 0;
  return dot(a, b) / (Math.sqrt(dot(a, a)) * Math.sqrt(dot(b, b)));
}

/** Half the log of what stands under the logarithm of E21. */
function logDistance(x, m, { center, whitening, deviations, prototypes, outside }) {
  // In units of the largest entry: no square overflows.
  const home = matrix(center)[m];
  const unit = Math.max(1, ...[...x, ...home].map(Math.abs));
  const z = x.map((value, k) => value / unit - home[k] / unit);
  const y =
    whitening.shape.length === 2
      ? z.map((value, k) => value * matrix(whitening)[m][k])
      : columns(rowsOf(whitening, m)).map((column) => dot(z, column));
  const squares = rowsOf(prototypes, m).map((nu) => {
    const apart = y.map((value, j) => value - nu[j] / unit);
    return dot(apart, apart);
  });
  const lengths = y.map((value, j) => value * matrix(deviations)[m][j]);
  const residue = Math.max(0, dot(z, z) - dot(lengths, lengths));
  const square = Math.min(...squares) + outside.values[m] * residue;
  return Math.log(Math.max(square, 2 ** -1022)) / 2 + Math.log(unit);
}

/** A vector over its largest entry: its squares neither overflow nor vanish. */
function unitScaled(x) {
  const top = Math.max(...x.map(Math.abs));
  return top === 0 ? x : x.map((value) => value / top);
}

// ----------------------------------------------------------------------------------------- arrays

/** The rows of an array [R, K]. */
function matrix({ shape: [rows, width], values }) {
  return Array.from({ length: rows }, (_, r) => values.slice(r * width, (r + 1) * width));
}

/** The rows [M][K] of entry b of an array [B, M, K]; null for an array that is not given. */
function rowsOf(array, b) {
  if (!array) return null;
  const [, count, width] = array.shape;
  const start = b * count * width;
  return matrix({
    shape: [count, width],
    values: array.values.slice(start, start + count * width),
  });
}

/** @returns {Sample} */
function sampleOf({ features, logits, mc_logits, present }, b, count) {
  const [passes, ...shape] = mc_logits?.shape ?? [0];
  const size = shape.reduce((product, axis) => product * axis, 1);
  return {
    features: rowsOf(features, b),
    logits: rowsOf(logits, b),
    passes: Array.from({ length: passes }, (_, t) =>
      rowsOf({ shape, values: mc_logits.values.slice(t * size, (t + 1) * size) }, b),
    ),
    // Without the array, all are present (DMS-P-003).
    present: Array.from({ length: count }, (_, m) => !present || !!present.values[b * count + m]),
    members: [],
  };
}

/** The parameters of one owner, by short name. */
function under(parameters, prefix) {
  return Object.fromEntries(
    Object.entries(parameters)
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, array]) => [name.slice(prefix.length), array]),
  );
}

function lookUp(table, name, kind) {
  if (!Object.hasOwn(table, name)) throw new RangeError(`unknown ${kind} '${name}'`);
  return table[name];
}
