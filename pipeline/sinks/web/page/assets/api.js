// What the server says: one-off answers, and the news that it sends by itself.

export const API = "/api/v1";

export async function get(path) {
  const answer = await fetch(API + path, { headers: { accept: "application/json" } });
  if (answer.status === 401) location.assign("/login");
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

/** Calls on.sources, on.event and on.gap as news come, on.lost(true or false) when the server goes and comes back. */
export function listen(on) {
  let heard = 0;
  let lost = false;
  let stream;
  const tell = (state) => { if (state !== lost) on.lost((lost = state)); };
  const open = (last) => {
    stream = new EventSource(`${API}/events/stream${last ? `?after=${encodeURIComponent(last)}` : ""}`);
    let id = last;
    const each = (name, use) => stream.addEventListener(name, (message) => {
      heard = performance.now();
      if (message.lastEventId) id = message.lastEventId;
      tell(false);
      use(JSON.parse(message.data));
    });
    each("sources", on.sources);
    each("event", on.event);
    each("gap", on.gap);
    // a browser gives up for good when a restarting server answers with an error
    stream.onerror = () => {
      if (stream.readyState !== EventSource.CLOSED) return;
      setTimeout(() => open(id), 1000);
    };
  };
  open("");
  heard = performance.now();
  setInterval(() => {
    if (performance.now() - heard > 4000) tell(true);
  }, 500);
}
