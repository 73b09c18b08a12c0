// Faces in view over the last hour: a stacked bar a minute.

const WIDTH = 336;
const HEIGHT = 96;
const SVG = "http://www.w3.org/2000/svg";

function draw(parent, kind, attributes, text) {
  const element = parent.appendChild(document.createElementNS(SVG, kind));
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** counts: as /counts gives it. chosen: one camera, or "" for the sum of all. */
export function chart(figure, counts, chosen) {
  const series = Object.entries(counts.sources).filter(([id]) => !chosen || id === chosen).map(([, s]) => s);
  const sum = (name) => counts.minutes.map((_, i) => series.reduce((total, s) => total + (s[name][i] ?? 0), 0));
  const mask = sum("mask");
  const noMask = sum("no_mask");
  const top = Math.max(1, ...mask.map((value, i) => value + noMask[i]));
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  figure.replaceChildren();
  const svg = draw(figure, "svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT + 16}`, role: "img",
    "aria-label": `On average ${mean(mask).toFixed(1)} faces with a mask and ${mean(noMask).toFixed(1)} without in the last hour`,
  });
  for (const share of [0, 0.5, 1]) {
    const y = HEIGHT - share * (HEIGHT - 12);
    draw(svg, "line", { x1: 0, x2: WIDTH, y1: y, y2: y });
    if (share) draw(svg, "text", { x: 0, y: y - 3 }, String(Math.round(share * top * 10) / 10));
  }
  const step = WIDTH / counts.minutes.length;
  mask.forEach((value, i) => {
    const low = (value / top) * (HEIGHT - 12);
    const high = (noMask[i] / top) * (HEIGHT - 12);
    const bar = { x: i * step + 0.5, width: step - 1.2, rx: 1 };
    if (low) draw(svg, "rect", { ...bar, y: HEIGHT - low, height: low, class: "mask" });
    if (high) draw(svg, "rect", { ...bar, y: HEIGHT - low - high, height: high, class: "no-mask" });
  });
  const clock = (s) => new Date(s * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  draw(svg, "text", { x: 0, y: HEIGHT + 14 }, clock(counts.minutes[0]));
  draw(svg, "text", { x: WIDTH, y: HEIGHT + 14, "text-anchor": "end" }, clock(counts.minutes.at(-1)));
  const legend = document.createElement("figcaption");
  legend.className = "legend";
  for (const [name, words] of [["mask", "with a mask"], ["no-mask", "without"]]) {
    const entry = legend.appendChild(document.createElement("span"));
    entry.appendChild(document.createElement("i")).className = name;
    entry.append(words);
  }
  figure.append(legend);
}
