// The visitor's camera or picture, with a box around each face.

import { Detector } from "./detector.js";

const COLOURS = { mask: "#00e08a", no_mask: "#ff5040" };
const SIDE_MAX = 1280;
const view = document.getElementById("view");
const context = view.getContext("2d", { willReadFrequently: true });
const said = document.getElementById("said");
const detector = await Detector.load();
let watching = 0;

window.detector = detector; // for the curious, and for the tests

function draw(source, width, height) {
  const scale = Math.min(1, SIDE_MAX / Math.max(width, height));
  view.width = Math.round(width * scale);
  view.height = Math.round(height * scale);
  context.drawImage(source, 0, 0, view.width, view.height);
  return context.getImageData(0, 0, view.width, view.height);
}

async function look(source, width, height) {
  const image = draw(source, width, height);
  const began = performance.now();
  const faces = await detector.detect(image);
  const line = Math.max(2, view.width / 320);
  context.lineWidth = line;
  context.font = `600 ${Math.max(12, view.width / 50)}px system-ui, sans-serif`;
  for (const { box: [x0, y0, x1, y1], confidence, label } of faces) {
    context.strokeStyle = context.fillStyle = COLOURS[label] ?? "#ffbe00";
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.fillText(`${label.replace("_", " ")} ${confidence.toFixed(2)}`, x0, y0 > 24 ? y0 - 2 * line : y1 + 20);
  }
  const without = faces.filter(({ label }) => label === "no_mask").length;
  said.textContent = `${faces.length - without} with a mask, ${without} without · ${Math.round(performance.now() - began)} ms`;
}

async function watch() {
  const mine = (watching += 1);
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
    const video = document.createElement("video");
    Object.assign(video, { srcObject: stream, muted: true, playsInline: true });
    await video.play();
    while (mine === watching) {
      await look(video, video.videoWidth, video.videoHeight);
      await new Promise(requestAnimationFrame);
    }
    stream.getTracks().forEach((track) => track.stop());
  } catch (error) {
    said.textContent = `The camera cannot be used: ${error.message}`;
  }
}

document.getElementById("camera").addEventListener("click", watch);
document.getElementById("picture").addEventListener("change", async ({ target }) => {
  watching += 1;
  const [file] = target.files;
  if (!file) return;
  try {
    const bitmap = await createImageBitmap(file);
    await look(bitmap, bitmap.width, bitmap.height);
  } catch {
    said.textContent = `${file.name} is not a picture that this browser reads.`;
  }
});
for (const id of ["camera", "picture"]) document.getElementById(id).disabled = false;
said.textContent = "Ready.";
