// One camera's live picture: fragmented MP4 over a WebSocket into a <video>; where the browser cannot, pictures.

import { API } from "./api.js";

const Source = window.ManagedMediaSource ?? window.MediaSource;
const KEPT_S = 8;
const BEHIND_S = 0.4;
const FAILURES_MAX = 3;
// before each fragment: its age in milliseconds and its place on the player's clock in seconds, as float64
const PREFIX_BYTES = 16;
const tick = (seconds) => Math.round(seconds * 1000);

export class Player {
  /** latency(ms or null) is called now and then; shown() with the first picture of each connection. */
  constructor(id, video, still, { latency, shown }) {
    Object.assign(this, { id, video, still, latency, shown, running: false, large: false, failures: 0, delay: 500 });
    this.captured = new Map();
    this.latencies = [];
    video.addEventListener("error", () => this.fail());
  }

  /** Whether it is video; otherwise pictures. */
  get moving() {
    return Boolean(Source) && this.failures < FAILURES_MAX;
  }

  start() {
    if (this.running) return;
    this.running = true;
    if (this.moving) this.connect();
    else this.pictures();
  }

  stop() {
    if (!this.running) return;
    this.running = false;
    clearTimeout(this.timer);
    this.disconnect();
    if (this.still.src.includes("live.mjpg")) this.still.src = `${API}/sources/${this.id}/picture.jpg?${Date.now()}`;
    this.latency(null);
  }

  restart() {
    this.stop();
    this.start();
  }

  // -- video

  connect() {
    this.disconnect();
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}${API}/sources/${this.id}/live`);
    socket.binaryType = "arraybuffer";
    let opening = null;
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      if (typeof data === "string") opening = JSON.parse(data);
      else if (opening) { this.open(opening.mime, data); opening = null; }
      else this.take(data);
    };
    socket.onclose = () => {
      if (socket !== this.socket || !this.running) return;
      this.timer = setTimeout(() => this.connect(), this.delay);
      this.delay = Math.min(this.delay * 2, 4000);
    };
    this.socket = socket;
  }

  disconnect() {
    const socket = this.socket;
    this.socket = null;
    // a browser complains of a connection that is closed before it is open
    if (socket?.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
    else socket?.close();
    this.buffer = null;
    this.queue = [];
    this.captured.clear();
  }

  open(mime, header) {
    if (!Source.isTypeSupported(mime)) { this.failures = FAILURES_MAX; this.restart(); return; }
    const source = new Source();
    const queue = (this.queue = [header]);
    this.buffer = null;
    this.captured.clear();
    let first = true;
    source.addEventListener("sourceopen", () => {
      if (queue !== this.queue) return;
      URL.revokeObjectURL(this.video.src);
      const buffer = source.addSourceBuffer(mime);
      buffer.addEventListener("updateend", () => { if (queue === this.queue) { this.follow(); this.feed(); } });
      this.buffer = buffer;
      this.feed();
    }, { once: true });
    this.video.disableRemotePlayback = true;
    this.video.src = URL.createObjectURL(source);
    this.video.play().catch(() => {});
    const presented = (_, frame) => {
      if (queue !== this.queue) return;
      if (first) { first = false; this.delay = 500; this.shown(); }
      this.measure(frame);
      this.video.requestVideoFrameCallback(presented);
    };
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(presented);
    else this.video.addEventListener("playing", () => this.shown(), { once: true });
  }

  take(data) {
    const view = new DataView(data);
    const age = view.getFloat64(0, true);
    if (age >= 0) this.captured.set(tick(view.getFloat64(8, true)), performance.now() - age);
    if (this.captured.size > 200) this.captured.delete(this.captured.keys().next().value);
    this.queue.push(new Uint8Array(data, PREFIX_BYTES));
    this.feed();
  }

  feed() {
    const { buffer, queue, video } = this;
    if (!buffer || buffer.updating || !queue.length) return;
    try {
      if (buffer.buffered.length && video.currentTime - buffer.buffered.start(0) > 2 * KEPT_S) {
        buffer.remove(0, video.currentTime - KEPT_S);
        return;
      }
      buffer.appendBuffer(queue.shift());
    } catch {
      this.fail();
    }
  }

  /** Stays at the newest picture: a jump where it is far behind, a little faster where it is near. */
  follow() {
    const { buffered } = this.buffer;
    if (!buffered.length) return;
    const last = buffered.length - 1;
    const behind = buffered.end(last) - this.video.currentTime;
    if (behind > BEHIND_S || this.video.currentTime < buffered.start(last)) {
      this.video.currentTime = Math.max(buffered.start(last), buffered.end(last) - 0.02);
    }
    this.video.playbackRate = behind > 0.1 ? 1.1 : 1;
    if (this.video.paused) this.video.play().catch(() => {});
  }

  measure({ mediaTime, expectedDisplayTime }) {
    const captured = this.captured.get(tick(mediaTime));
    if (captured === undefined) return;
    this.latencies.push(expectedDisplayTime - captured);
    if (this.latencies.length < 12) return;
    this.latencies.sort((a, b) => a - b);
    this.latency(this.latencies[6]);
    this.latencies = [];
  }

  fail() {
    if (!this.running || !this.socket) return;
    this.failures += 1;
    this.disconnect();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => { if (this.running) { this.running = false; this.start(); } }, this.delay);
  }

  // -- pictures: a stream for the large one, now and then for the others (a browser has six connections)

  pictures() {
    const base = `${API}/sources/${this.id}`;
    this.still.onload = () => this.shown();
    if (this.large) {
      this.still.src = `${base}/live.mjpg?${Date.now()}`;
      return;
    }
    const next = () => {
      if (!this.running) return;
      this.still.src = `${base}/picture.jpg?${Date.now()}`;
      this.timer = setTimeout(next, 1000);
    };
    next();
  }
}
