// The cameras: a tile each, all of them in a grid or one alone.

import { API } from "./api.js";
import { Player } from "./player.js";

const STATES = {
  live: "Live", connecting: "Connecting", stalled: "No picture", backing_off: "Lost, trying again", ended: "Ended",
  failed: "Failed",
};

class Tile {
  constructor(id, template) {
    this.id = id;
    this.element = template.content.firstElementChild.cloneNode(true);
    const find = (name) => this.element.querySelector(`.${name}`);
    this.parts = Object.fromEntries(["stage", "still", "video", "reason", "name", "word", "figures"].map((n) => [n, find(n)]));
    this.element.id = `camera-${id}`;
    this.parts.name.textContent = id;
    this.parts.still.alt = `Last picture of ${id}`;
    this.visible = false;
    this.glass = null;
    this.player = new Player(id, this.parts.video, this.parts.still, {
      latency: (ms) => { this.glass = ms; },
      shown: () => this.element.classList.add("playing"),
    });
    // a still of the shape before would be seen on both sides of a narrower video
    this.parts.video.addEventListener("resize", () => this.refresh());
  }

  /** The newest picture there is, for the time until video comes, or instead of it. */
  refresh() {
    this.parts.still.src = `${API}/sources/${this.id}/picture.jpg?${Date.now()}`;
    this.parts.still.onerror = () => this.parts.still.removeAttribute("src");
  }

  play(wanted) {
    if (wanted) this.player.start();
    else this.player.stop();
  }

  show(source, answering) {
    const live = source.live && answering;
    this.element.classList.toggle("down", !live && source.state !== "connecting");
    this.element.classList.toggle("waiting", source.state === "connecting");
    this.parts.word.textContent = answering ? STATES[source.state] ?? source.state : "Unknown";
    const since = source.age_s === null ? "no picture yet" : `last picture ${ago(source.age_s)} ago`;
    const why = answering ? source.reason || STATES[source.state] || source.state : "the server does not answer";
    this.parts.reason.textContent = live ? "" : sentence(why);
    const latency = this.glass ?? source.latency_ms;
    const figures = live
      ? [`${source.fps.toFixed(source.fps < 10 ? 1 : 0)} fps`, latency === null ? "" : `${Math.round(latency)} ms ${this.glass === null ? "to the result" : "behind"}`,
         `newest ${Math.max(0, source.age_s).toFixed(1)} s`, source.width ? `${source.width} × ${source.height}` : ""]
      : [since, source.width ? `${source.width} × ${source.height}` : ""];
    if (source.width) this.element.style.setProperty("--ratio", source.width / source.height);
    if (source.reconnects) figures.push(`lost ${source.reconnects} ${source.reconnects === 1 ? "time" : "times"}`);
    this.parts.figures.textContent = figures.filter(Boolean).join(" · ");
    if (this.wasLive === false && live) this.player.restart();
    const pictured = source.age_s !== null;
    if (pictured && (!this.pictured || (this.wasLive !== live && !live))) this.refresh();
    this.pictured = pictured;
    this.wasLive = live;
  }
}

export class Cameras {
  constructor() {
    this.grid = document.getElementById("grid");
    this.template = document.getElementById("tile");
    this.tiles = new Map();
    this.chosen = "";
    this.answering = true;
    this.sources = [];
    this.observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const tile = [...this.tiles.values()].find(({ element }) => element === target);
        if (tile) tile.visible = isIntersecting;
      }
      this.play();
    }, { rootMargin: "120px" });
    document.addEventListener("visibilitychange", () => this.play());
  }

  get ids() {
    return this.sources.map(({ id }) => id);
  }

  /** One camera alone, or all for "". */
  choose(id) {
    this.chosen = id;
    this.grid.classList.toggle("one", Boolean(id));
    document.getElementById("back").hidden = !id;
    document.getElementById("cameras-title").textContent = id ? `Camera ${id}` : "Cameras";
    this.arrange();
  }

  update(sources) {
    this.sources = sources;
    for (const source of sources) {
      if (this.tiles.has(source.id)) continue;
      const tile = new Tile(source.id, this.template);
      this.tiles.set(source.id, tile);
      this.grid.append(tile.element);
      this.observer.observe(tile.element);
    }
    for (const [id, tile] of this.tiles) {
      if (this.ids.includes(id)) continue;
      tile.play(false);
      tile.element.remove();
      this.tiles.delete(id);
    }
    this.arrange();
    this.show();
  }

  arrange() {
    for (const [id, tile] of this.tiles) {
      const alone = id === this.chosen;
      tile.element.hidden = Boolean(this.chosen) && !alone;
      tile.parts.stage.href = alone ? "#/" : `#/camera/${id}`;
      tile.parts.stage.setAttribute("aria-label", alone ? "Show all cameras" : `Show ${id} large`);
      if (tile.player.large !== alone) {
        tile.player.large = alone;
        if (!tile.player.moving) tile.player.restart();
      }
    }
    const missing = this.sources.length > 0 && Boolean(this.chosen) && !this.tiles.has(this.chosen);
    document.getElementById("none").hidden = !missing;
    this.play();
  }

  play() {
    for (const tile of this.tiles.values()) tile.play(tile.visible && !tile.element.hidden && !document.hidden);
  }

  lost(lost) {
    this.answering = !lost;
    this.show();
  }

  show() {
    for (const source of this.sources) this.tiles.get(source.id)?.show(source, this.answering);
  }
}

const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);

function ago(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}
