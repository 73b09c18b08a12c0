// The network's picture in, faces out: the same steps as pipeline/inference (preprocess, ssd), checked against it.

import * as ort from "./ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1; // more need headers that plain file servers do not send

const CANDIDATES_MAX = 400;
const OFFSET_MAX = [1e6, 1e6, 10, 10];

/** How much of each of `from` pixels falls into each of `to`: exact area averages, by position and weight. */
function shares(from, to) {
  return Array.from({ length: to }, (_, i) => {
    const [begin, end] = [(i * from) / to, ((i + 1) * from) / to];
    const first = Math.floor(begin);
    const last = Math.min(from, Math.ceil(end - 1e-9));
    return Array.from({ length: last - first }, (__, k) => {
      const at = first + k;
      return [at, (Math.min(end, at + 1) - Math.max(begin, at)) / (end - begin)];
    });
  });
}

export function anchors({ maps }) {
  const found = [];
  for (const { rows, columns, wh } of maps) {
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1) {
        for (const [w, h] of wh) found.push([(column + 0.5) / columns, (row + 0.5) / rows, w, h]);
      }
    }
  }
  return found;
}

/** RGBA pixels (width x height x 4 bytes) to the network's tensor, as float32 planes; 8 bits in between, as in Python. */
export function tensor({ data, width, height }, model) {
  const across = shares(width, model.width);
  const down = shares(height, model.height);
  const half = new Float32Array(height * model.width * 3);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < model.width; x += 1) {
      for (const [at, weight] of across[x]) {
        const from = (y * width + at) * 4;
        const to = (y * model.width + x) * 3;
        half[to] += weight * data[from];
        half[to + 1] += weight * data[from + 1];
        half[to + 2] += weight * data[from + 2];
      }
    }
  }
  const plane = model.width * model.height;
  const out = new Float32Array(3 * plane);
  for (let y = 0; y < model.height; y += 1) {
    for (let x = 0; x < model.width; x += 1) {
      for (let c = 0; c < 3; c += 1) {
        let sum = 0;
        for (const [at, weight] of down[y]) sum += weight * half[(at * model.width + x) * 3 + c];
        out[c * plane + y * model.width + x] = (Math.round(sum) - model.mean[c]) / model.std[c];
      }
    }
  }
  return out;
}

function iou(a, b) {
  const wide = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
  const high = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const both = wide * high;
  const area = ([x0, y0, x1, y1]) => Math.max(0, x1 - x0) * Math.max(0, y1 - y0);
  return both / Math.max(area(a) + area(b) - both, 1e-12);
}

const greedy = (faces, beats) => faces.reduce((kept, face) => (kept.some((better) => beats(better, face)) ? kept : [...kept, face]), []);

/** Raw outputs to faces, best first: box in 0..1, confidence, class. */
export function decode(boxes, scores, all, model, { confidenceMin = 0.5, iouMax = 0.4, crossClassIouMax = 0.4 } = {}) {
  const classes = model.labels.length;
  const candidates = [];
  for (let i = 0; i < scores.length; i += 1) {
    if (scores[i] >= confidenceMin && scores[i] <= 1) candidates.push([scores[i], Math.floor(i / classes), i % classes]);
  }
  candidates.sort((a, b) => b[0] - a[0]);
  const seen = Array(classes).fill(0);
  const faces = [];
  for (const [confidence, anchor, classId] of candidates) {
    seen[classId] += 1;
    const raw = boxes.subarray(anchor * 4, anchor * 4 + 4);
    if (seen[classId] > CANDIDATES_MAX || !raw.every(Number.isFinite)) continue;
    const [x, y, w, h] = [...raw].map((v, k) => Math.max(-OFFSET_MAX[k], Math.min(OFFSET_MAX[k], v * model.variances[k])));
    const [cx, cy, aw, ah] = all[anchor];
    const [mx, my] = [x * aw + cx, y * ah + cy];
    const [hw, hh] = [Math.exp(w) * aw * 0.5, Math.exp(h) * ah * 0.5];
    faces.push({ box: [mx - hw, my - hh, mx + hw, my + hh], confidence, classId });
  }
  const apart = greedy(faces, (a, b) => a.classId === b.classId && iou(a.box, b.box) > iouMax);
  return greedy(apart, (a, b) => a.classId !== b.classId && iou(a.box, b.box) > crossClassIouMax)
    .map((face) => ({ ...face, box: face.box.map((v) => Math.max(0, Math.min(1, v))) }))
    .filter(({ box: [x0, y0, x1, y1] }) => x1 > x0 && y1 > y0);
}

export class Detector {
  static async load(base = ".") {
    const model = await (await fetch(`${base}/model.json`)).json();
    const session = await ort.InferenceSession.create(`${base}/model.onnx`, { executionProviders: ["wasm"] });
    return new Detector(model, session);
  }

  constructor(model, session) {
    Object.assign(this, { model, session, anchors: anchors(model) });
  }

  /** Faces in an ImageData, best first: {box in pixels, confidence, label}. */
  async detect(image) {
    const { model } = this;
    const input = new ort.Tensor("float32", tensor(image, model), [1, 3, model.height, model.width]);
    const outputs = await this.session.run({ [model.input]: input });
    const size = [image.width, image.height, image.width, image.height];
    return decode(outputs[model.boxes].data, outputs[model.scores].data, this.anchors, model)
      .map(({ box, confidence, classId }) => ({ box: box.map((v, k) => v * size[k]), confidence, label: model.labels[classId] }));
  }
}
