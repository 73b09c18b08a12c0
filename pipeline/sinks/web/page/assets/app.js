// Puts the page together: news from the server to its parts, the address and the keyboard.

import { get, listen } from "./api.js";
import { Cameras } from "./cameras.js";
import { chart } from "./chart.js";
import { Events } from "./events.js";

const COUNTS_EVERY_MS = 20000;
const cameras = new Cameras();
const events = new Events();
const chosen = () => decodeURIComponent(location.hash.match(/^#\/camera\/([^/]+)$/)?.[1] ?? "");

async function counts() {
  chart(document.getElementById("chart"), await get("/counts"), chosen());
}

function route() {
  cameras.choose(chosen());
  counts().catch(() => {});
}

function summarise(sources) {
  const live = sources.filter((source) => source.live).length;
  const down = sources.length - live;
  const summary = document.getElementById("summary");
  const text = `${live} of ${sources.length} live`;
  if (summary.dataset.text === text) return;
  summary.dataset.text = text;
  summary.innerHTML = "";
  summary.append(Object.assign(document.createElement("span"), { textContent: text, className: down ? "bad" : "" }));
}

function theme() {
  const root = document.documentElement;
  try { root.dataset.theme = localStorage.getItem("theme") ?? ""; } catch { /* without storage: the system's */ }
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* for this visit */ }
  });
}

function keyboard() {
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, textarea, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
    const ids = cameras.ids;
    const at = ids.indexOf(chosen());
    if (event.key === "Escape" && at >= 0) location.hash = "#/";
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step && at >= 0) location.hash = `#/camera/${ids[(at + step + ids.length) % ids.length]}`;
    if (/^[1-9]$/.test(event.key) && ids[event.key - 1]) location.hash = `#/camera/${ids[event.key - 1]}`;
  });
}

theme();
keyboard();
addEventListener("hashchange", route);
route();
setInterval(() => counts().catch(() => {}), COUNTS_EVERY_MS);
listen({
  sources(sources) {
    cameras.update(sources);
    events.offerSources(cameras.ids);
    summarise(sources);
  },
  event: (event) => events.take(event),
  gap: () => events.reload().catch(() => {}),
  lost(lost) {
    document.getElementById("lost").hidden = !lost;
    cameras.lost(lost);
    if (!lost) events.reload().catch(() => {});
  },
});
events.load().catch(() => {});
get("/health").then(({ site, login }) => {
  document.title = site;
  document.getElementById("site").textContent = site;
  document.getElementById("logout").hidden = !login;
}).catch(() => {});
