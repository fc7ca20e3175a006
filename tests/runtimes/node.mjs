// stdin: {model: path, batches}; stdout: the outputs of each batch.

import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import { run } from "./tensors.mjs";

const { model, batches } = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(await run(ort, model, batches)));
