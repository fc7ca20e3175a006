// Runs batches through a graph with the API that onnxruntime-node and onnxruntime-web share.
// An array is {type, dims, data}: data is base64 of little-endian bytes, or a list of strings.

const TYPES = { bool: Uint8Array, float32: Float32Array, int64: BigInt64Array };

export async function run(ort, model, batches) {
  const session = await ort.InferenceSession.create(model);
  const found = [];
  for (const batch of batches) {
    const outputs = await session.run(mapped(batch, (value) => tensor(ort, value)));
    found.push(mapped(outputs, plain));
  }
  await session.release();
  return found;
}

function mapped(object, change) {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key, change(value)]));
}

function tensor(ort, { type, dims, data }) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  return new ort.Tensor(type, new TYPES[type](bytes.buffer), dims);
}

function plain({ type, dims, data }) {
  if (type === "string") return { type, dims, data: [...data] };
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return { type, dims, data: btoa(binary) };
}
