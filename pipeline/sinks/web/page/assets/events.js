// The events: an entry an episode, newest first, filtered; and what shows them.

import { API, get } from "./api.js";

const WORDS = {
  no_mask: "No mask", mask_removed: "Mask taken off", crowding: "Too many without a mask", compliance: "Too many without a mask",
  source_lost: "Camera lost", source_live: "Camera back", storage_full: "Storage full", recording_stopped: "Recording stopped",
};
const WARNINGS = new Set(["source_lost", "storage_full", "recording_stopped"]);
const QUIET = new Set(["source_live"]);
const PAGE = 40;
const KEPT = 1000;
const PICTURE = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M4 7h3l2-2h6l2 2h3v12H4z"/><circle cx="12" cy="13" r="3.2"/></svg>';

const words = (kind) => WORDS[kind] ?? kind.replaceAll("_", " ").replace(/^./, (c) => c.toUpperCase());
const evidence = (episode, kind) => (episode.evidence.includes(kind) ? `${API}/clips/${episode.id}/${kind}` : "");

export class Events {
  constructor() {
    this.list = document.getElementById("list");
    this.filters = document.getElementById("filters");
    this.more = document.getElementById("more");
    this.dialog = document.getElementById("details");
    this.episodes = new Map();
    this.oldest = null;
    this.filters.addEventListener("change", () => this.reload());
    this.filters.addEventListener("submit", (event) => event.preventDefault());
    this.more.addEventListener("click", () => this.load());
    this.dialog.addEventListener("close", () => document.getElementById("evidence").replaceChildren());
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
  }

  get query() {
    const { source, kind, period } = Object.fromEntries(new FormData(this.filters));
    return { source, kind, period: Number(period) };
  }

  async reload() {
    this.episodes.clear();
    this.list.replaceChildren();
    this.oldest = null;
    await this.load();
  }

  async load() {
    const { source, kind, period } = this.query;
    const query = new URLSearchParams({ limit: PAGE });
    if (source) query.set("source", source);
    if (kind) query.set("kind", kind);
    if (period) query.set("since", new Date(Date.now() - period * 1000).toISOString());
    if (this.oldest) query.set("before", this.oldest);
    const events = await get(`/events?${query}`);
    if (events.length) this.oldest = events.at(-1).seq;
    for (const event of events) this.add(event);
    this.more.hidden = events.length < PAGE;
    this.count();
  }

  /** A new one; shown where the filters let it through. */
  take(event) {
    const { source, kind } = this.query;
    if ((source && event.source !== source) || (kind && event.kind !== kind)) return;
    this.add(event);
    this.count();
  }

  add(event) {
    const known = this.episodes.get(event.id);
    const episode = known ?? { id: event.id, seq: 0, evidence: [] };
    for (const { kind } of event.evidence ?? []) if (!episode.evidence.includes(kind)) episode.evidence.push(kind);
    if (event.seq > episode.seq) {
      const { t_end: ended, reason } = episode;
      Object.assign(episode, event, { evidence: episode.evidence });
      // an update that comes behind the end, with the clip, does not open the episode again
      episode.t_end ??= ended ?? null;
      episode.reason ??= reason ?? null;
    }
    this.offer(event);
    const entry = this.entry(episode);
    entry.dataset.began = episode.t_start;
    if (known) known.element.replaceWith(entry);
    else this.place(entry, episode.t_start);
    episode.element = entry;
    this.episodes.set(event.id, episode);
    if (this.episodes.size > KEPT) {
      const [id, last] = [...this.episodes].reduce((a, b) => (a[1].seq < b[1].seq ? a : b));
      last.element.remove();
      this.episodes.delete(id);
    }
  }

  /** By when they began, newest first. */
  place(entry, began) {
    let next = this.list.firstElementChild;
    while (next && next.dataset.began > began) next = next.nextElementSibling;
    this.list.insertBefore(entry, next);
  }

  /** Kinds that have come can be filtered for. */
  offer({ kind }) {
    const select = this.filters.elements.kind;
    if (![...select.options].some(({ value }) => value === kind)) select.add(new Option(words(kind), kind));
  }

  offerSources(ids) {
    const select = this.filters.elements.source;
    for (const id of ids) if (![...select.options].some(({ value }) => value === id)) select.add(new Option(id, id));
  }

  entry(episode) {
    const item = document.createElement("li");
    const button = item.appendChild(document.createElement("button"));
    button.type = "button";
    button.className = `event ${WARNINGS.has(episode.kind) ? "warn" : QUIET.has(episode.kind) ? "" : "alert"}`;
    button.dataset.id = episode.id;
    const picture = evidence(episode, "crop") || evidence(episode, "snapshot");
    const thumb = button.appendChild(document.createElement(picture ? "img" : "span"));
    thumb.className = "thumb";
    if (picture) Object.assign(thumb, { src: picture, alt: "", loading: "lazy" });
    else thumb.innerHTML = PICTURE;
    const began = new Date(episode.t_start);
    const put = (name, text) => {
      const part = button.appendChild(document.createElement("span"));
      part.className = name;
      part.textContent = text;
      return part;
    };
    put("title", words(episode.kind));
    put("when", began.toLocaleTimeString()).title = began.toLocaleString();
    put("where", [episode.source, episode.zone, evidence(episode, "clip") ? "clip" : ""].filter(Boolean).join(" · "));
    const lasting = !episode.t_end && !QUIET.has(episode.kind);
    const end = put("when", lasting ? "now" : lasted(episode));
    if (lasting) end.classList.add("running");
    button.addEventListener("click", () => this.open(episode));
    return item;
  }

  open(episode) {
    document.getElementById("details-title").textContent = `${words(episode.kind)} · ${episode.source}`;
    const place = document.getElementById("evidence");
    place.replaceChildren();
    const clip = evidence(episode, "clip");
    const snapshot = evidence(episode, "snapshot");
    if (clip) {
      const video = place.appendChild(document.createElement("video"));
      Object.assign(video, { src: clip, poster: snapshot, controls: true, autoplay: true, loop: true, muted: true, playsInline: true });
      video.setAttribute("aria-label", "Clip of this event");
    } else if (snapshot) Object.assign(place.appendChild(new Image()), { src: snapshot, alt: "Snapshot of this event" });
    const crop = evidence(episode, "crop");
    document.getElementById("face").replaceChildren();
    if (crop) Object.assign(document.getElementById("face").appendChild(new Image()), { src: crop, alt: "The face", className: "crop" });
    const time = (text) => (text ? new Date(text).toLocaleString() : "");
    const percent = (share) => (share === null || share === undefined ? "" : `${Math.round(share * 100)} %`);
    const facts = {
      Camera: episode.source, Zone: episode.zone, Began: time(episode.t_start),
      Ended: episode.t_end ? `${time(episode.t_end)}${episode.reason ? ` (${episode.reason.replaceAll("_", " ")})` : ""}` : "not yet",
      Confidence: percent(episode.confidence_best ?? episode.confidence), Faces: episode.faces, Model: episode.model, Id: episode.id,
    };
    const list = document.getElementById("facts");
    list.replaceChildren();
    for (const [name, value] of Object.entries(facts)) {
      if (value === null || value === undefined || value === "") continue;
      list.appendChild(document.createElement("dt")).textContent = name;
      list.appendChild(document.createElement("dd")).textContent = value;
    }
    this.dialog.showModal();
  }

  count() {
    document.getElementById("no-events").hidden = this.episodes.size > 0;
    const open = [...this.episodes.values()].filter(({ t_end, kind }) => !t_end && !QUIET.has(kind)).length;
    document.getElementById("events-note").textContent = open ? `${open} going on` : "";
  }
}

function lasted({ t_start, t_end }) {
  if (!t_end) return "";
  const seconds = (new Date(t_end) - new Date(t_start)) / 1000;
  return seconds < 90 ? `${seconds.toFixed(0)} s` : `${(seconds / 60).toFixed(0)} min`;
}
