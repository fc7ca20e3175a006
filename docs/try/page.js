// Degrades a digit's views and runs the exported graph on them, here, in the browser.

import * as ort from "./ort.wasm.bundle.min.mjs";

// More threads need headers that a plain web server does not send, and the graph is small.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = {
  wasm: new URL("ort-wasm-simd-threaded.wasm", import.meta.url).href,
};

const $ = (id) => document.getElementById(id);

/** The inputs and outputs of the last run, as plain arrays, for whoever wants to check them. */
window.dmsTry = { inputs: null, outputs: null };

// ------------------------------------------------------------------------------------- the noise

/** Numbers in [0, 1), the same from the same seed: Mulberry32. */
function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Standard normal numbers, by Box and Muller. */
function normal(count, seed) {
  const random = uniform(seed);
  return Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - random()));
    return radius * Math.cos(2 * Math.PI * random());
  });
}

/** A view's numbers as the graph gets them: noise of a level, then columns covered with 0. */
function degraded(view, digit, index) {
  const clean = digit.views[view.name];
  if (!view.present.checked && $("nan").checked) {
    return new Float32Array(clean.length).fill(NaN);
  }
  const [rows, columns] = view.shape;
  // One draw for each digit and view, whatever the level: only its strength follows the slider.
  const noise = normal(clean.length, digit.row * 4 + index);
  const sigma = Number(view.noise.value);
  const covered = Math.round((Number(view.covered.value) / 100) * clean.length);
  return Float32Array.from(clean, (value, k) => {
    const fromRight = (columns - 1 - (k % columns)) * rows + Math.floor(k / columns);
    return fromRight < covered ? 0 : value + sigma * noise[k];
  });
}

// ----------------------------------------------------------------------------------- the pictures

/** Draw numbers, 0 as paper and 1 as ink; what lies outside is cut off. */
function draw(canvas, values, [rows, columns]) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  values.forEach((value, k) => {
    const grey = 255 - Math.round(255 * Math.min(1, Math.max(0, value || 0)));
    image.data.set([grey, grey, grey, 255], 4 * k);
  });
  context.putImageData(image, 0, 0);
}

function element(tag, text = "", name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = name;
  return made;
}

/** Two decimals, but an exact 0 is told from a small weight. */
function share(value) {
  if (value === 0) return "0";
  return value < 0.005 ? "<0.01" : value.toFixed(2);
}

const percent = (value) => `${(100 * value).toFixed(1)} %`;

// --------------------------------------------------------------------------------------- the page

let session, data, views;
let current = 0;

/** The card of one view, from the template; keeps its controls. */
function card(modality, index) {
  const part = $("view").content.cloneNode(true);
  const find = (selector) => part.querySelector(selector);
  const view = {
    ...modality,
    article: find("article"),
    picture: find(".picture"),
    canvas: find("canvas"),
    present: find(".present"),
    noise: find(".noise"),
    covered: find(".covered"),
    bar: find(".weight .bar"),
    equal: find(".weight .equal"),
    number: find(".weight .number"),
    signals: {},
  };
  const title = `view-${modality.name}`;
  view.article.dataset.view = modality.name;
  view.article.style.setProperty("--colour", `var(--v${index})`);
  view.article.setAttribute("aria-labelledby", title);
  find("h3").id = title;
  find("h3").textContent = modality.name;
  find(".about").textContent = modality.about;
  const [rows, columns] = modality.shape;
  view.canvas.style.aspectRatio = `${columns} / ${rows}`;
  view.canvas.style.width = `min(100%, ${(9 * columns) / rows}rem)`;
  view.present.setAttribute("aria-label", `${modality.name} present`);
  view.noise.setAttribute("aria-label", `noise on ${modality.name}`);
  view.covered.setAttribute("aria-label", `covered part of ${modality.name}`);
  for (const { name, better } of data.signals) {
    const group = element("div");
    const value = element("dd");
    const track = element("span", "", "track");
    const bar = element("i", "", "bar");
    group.title = better > 0 ? "more means more trust" : "more means less trust";
    if (name === "typicality") group.title = "logarithm of the share of trust that is left (bar)";
    track.append(bar);
    group.append(element("dt", `${name} ${better > 0 ? "↑" : "↓"}`), value, track);
    find(".signals").append(group);
    view.signals[name] = { value, bar };
  }
  view.piece = element("i");
  view.piece.style.background = `var(--v${index})`;
  $("shares").append(view.piece);
  view.legend = element("span");
  const entry = element("li");
  const patch = element("b");
  patch.style.background = `var(--v${index})`;
  entry.append(patch, element("span", modality.name), view.legend);
  $("legend").append(entry);
  for (const control of [view.present, view.noise, view.covered]) {
    control.addEventListener("input", update);
  }
  $("views").append(part);
  return view;
}

/** Everything that does not change from run to run. */
function build() {
  views = data.modalities.map(card);
  for (const name of data.classes) {
    const entry = element("li");
    const track = element("span", "", "track");
    track.append(element("i", "", "bar"));
    entry.append(element("span", name), track, element("span"));
    $("classes").append(entry);
  }
  const { training, test, measured, preset } = data;
  const last = measured.at(-1);
  const compared = ({ scheduled, static: equal }) => {
    const points = 100 * (scheduled - equal);
    const size = `${Math.abs(points).toFixed(1)} points`;
    return points === 0 ? "level with" : `${size} ${points < 0 ? "below" : "above"}`;
  };
  $("made").textContent =
    `Each view has a linear head, learned from ${training} digits of scikit-learn as by dms fit, ` +
    `whose default is ${preset}. A view loses trust if it is unlike the digits that its head has ` +
    `learned from. How much it loses was learned on digits that were corrupted by uniform and ` +
    `Laplace noise and by exchanged numbers, never by Gaussian noise or a cover, as here. The ` +
    `digits here are drawn at random from the ${test} test digits, and those with the most ` +
    `ordinary weights come first. Over all test digits, accuracy is ${compared(measured[0])} ` +
    `equal weights on clean views and ${compared(last)} at noise ${last.noise}. Noise raised a ` +
    `view's weight in at most ${percent(Math.max(...measured.map(({ rose }) => rose)))} of the ` +
    `cases of a row, as the last column counts.`;
  $("measured-caption").textContent =
    `All ${test} test digits, with noise on two of each one's four views (by NumPy)`;
  for (const { noise, scheduled, static: equal, share, rose } of measured) {
    const line = element("tr");
    const texts = [noise.toFixed(1), percent(scheduled), percent(equal), share.toFixed(2)];
    texts.push(noise ? percent(rose) : "–");
    line.append(...texts.map((text) => element("td", text)));
    $("measured").tBodies[0].append(line);
  }
}

function reset() {
  for (const view of views) {
    view.present.checked = true;
    view.noise.value = view.covered.value = 0;
  }
  $("nan").checked = false;
  return update();
}

// ---------------------------------------------------------------------------------------- running

async function run(arrays, present) {
  const feeds = {
    present: new ort.Tensor("bool", Uint8Array.from(present), [1, present.length]),
  };
  views.forEach((view, m) => {
    feeds[view.name] = new ort.Tensor("float32", arrays[m], [1, arrays[m].length]);
  });
  const found = await session.run(feeds);
  const plain = (tensor) =>
    Array.from(tensor.data, tensor.type === "bool" ? Boolean : Number);
  return Object.fromEntries(Object.entries(found).map(([name, tensor]) => [name, plain(tensor)]));
}

async function recompute() {
  const digit = data.digits[current];
  const present = views.map((view) => view.present.checked);
  const arrays = views.map((view, index) => degraded(view, digit, index));
  const start = performance.now();
  const outputs = await run(arrays, present);
  const took = performance.now() - start;
  const inputs = Object.fromEntries(views.map((view, m) => [view.name, Array.from(arrays[m])]));
  window.dmsTry = { inputs: { ...inputs, present }, outputs };
  show(digit, arrays, outputs);
  $("time").textContent = `The graph took ${took.toFixed(1)} ms.`;
}

let stale = false;
let pending = null;

/** Run again; a slider moves faster than that, so what comes meanwhile is run once, at the end. */
function update() {
  $("same").textContent = "";
  $("page").setAttribute("aria-busy", "true");
  stale = true;
  pending ??= settle();
  return pending;
}

async function settle() {
  try {
    while (stale) {
      stale = false;
      await recompute();
    }
    $("page").setAttribute("aria-busy", "false");
  } catch (error) {
    fail(error);
  } finally {
    pending = null;
  }
}

/** Put NaN where a view is absent, or take it out, and say what that changed. */
async function fill() {
  const before = JSON.stringify(window.dmsTry.outputs);
  await update();
  const absent = views.filter((view) => !view.present.checked).map((view) => view.name);
  if (!absent.length) {
    $("same").textContent = "No view is absent: take one away first.";
  } else {
    const same = before === JSON.stringify(window.dmsTry.outputs);
    const what = `${absent.join(", ")} ${$("nan").checked ? "now NaN" : "no longer NaN"}`;
    $("same").textContent = `${what}: ${same ? "not a bit of any output changed." : "changed!"}`;
  }
}

function show(digit, arrays, outputs) {
  const scan = digit.scan.map((value) => value / 16);
  draw($("scan"), scan, [8, 8]);
  $("scan").setAttribute("aria-label", `scan of a ${digit.label}`);
  const some = outputs.active.filter(Boolean).length;
  views.forEach((view, m) => {
    const there = outputs.active[m];
    const weight = outputs.weights[m];
    const note = $("nan").checked ? "NaN" : "absent";
    draw(view.canvas, arrays[m], view.shape);
    view.canvas.setAttribute("aria-label", `${view.name}${there ? "" : ", absent"}`);
    view.article.classList.toggle("absent", !there);
    view.picture.dataset.note = there ? "" : note;
    view.number.textContent = view.legend.textContent = share(weight);
    view.bar.style.width = view.piece.style.width = `${100 * weight}%`;
    view.equal.hidden = !there;
    view.equal.style.left = `calc(${100 / some}% - 1px)`;
    view.noise.nextElementSibling.textContent = Number(view.noise.value).toFixed(2);
    view.covered.nextElementSibling.textContent = `${view.covered.value} %`;
    for (const [name, { value, bar }] of Object.entries(view.signals)) {
      const seen = outputs[name][m];
      const part = name === "typicality" ? Math.exp(seen) : seen;
      value.textContent = there ? seen.toFixed(2) : "–";
      bar.style.width = `${there ? 100 * part : 0}%`;
    }
  });
  const [predicted] = outputs.predicted;
  const right = predicted === digit.label;
  $("prediction").textContent = some
    ? `Predicted: ${predicted}`
    : `Nothing there; commonest class: ${predicted}`;
  $("truth").textContent = `${right ? "✓ right" : "✗ wrong"}: it is a ${digit.label}`;
  $("truth").className = right ? "right" : "wrong";
  [...$("classes").children].forEach((entry, k) => {
    const probability = outputs.probabilities[k];
    entry.classList.toggle("chosen", data.classes[k] === predicted);
    entry.querySelector(".bar").style.width = `${100 * probability}%`;
    entry.lastElementChild.textContent = percent(probability);
  });
}

function fail(error) {
  $("status").hidden = false;
  $("status").className = "failed";
  $("status").textContent = `The graph does not run: ${error.message ?? error}`;
  throw error;
}

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer;
}

async function start() {
  data = await (await fetched("digits.json")).json();
  const model = await (await fetched("model.onnx")).arrayBuffer();
  session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  build();
  $("another").addEventListener("click", () => {
    current = (current + 1) % data.digits.length;
    update();
  });
  $("reset").addEventListener("click", reset);
  $("nan").addEventListener("input", fill);
  await reset(); // a browser that goes back to a page keeps where the sliders were
  $("page").hidden = $("about").hidden = false;
  $("status").hidden = true;
}

start().catch(fail);
