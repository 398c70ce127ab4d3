// The view of StateScrubber: heat maps of memories S_t [V, K], side by side, that play and scrub without the kernel.
// Python sends for each the factors of S_t = alpha_t S_{t-1} + u_t k_t^T and a state every `stride` tokens. Memory
// recomputes any S_t from them and colours it, Player holds the one clock and token of a model, View is one drawing
// of it, with a Panel for each memory.

const SPEEDS = [1, 5, 10, 20, 50, 100, 200];
const NEIGHBOURS = 24; // Labels on either side of the token, for each memory: what does not fit is cut off.
// A map's longer side in CSS pixels, at most, of so many: a cell is a whole number of device pixels.
const SIDE = (memories) => (memories > 3 ? 192 : 256);
const GRAY = 0xff808080; // NaN, as ABGR.

const PLAY = "M2 1v10l9-5z";
const PAUSE = "M2 1h3v10H2zM7 1h3v10H7z";
const button = (name, label, path) =>
  `<button type="button" class="qdelta-${name}" title="${label}" aria-label="${label}">
     <svg viewBox="0 0 12 12" aria-hidden="true"><path d="${path}"/></svg>
   </button>`;
const PAGE = `
  <div class="qdelta-title"></div>
  <div class="qdelta-map">
    <div class="qdelta-rows"></div>
    <div class="qdelta-gradient"></div>
    <div class="qdelta-marks"><span></span><span>0</span><span></span></div>
    <div class="qdelta-columns"></div>
  </div>
  <div class="qdelta-status"></div>
  <div class="qdelta-strip" aria-hidden="true"><div></div><strong></strong><div></div></div>
  <div class="qdelta-controls">
    ${button("back", "One token back", "M1 1h2v10H1zM11 1v10L4 6z")}
    ${button("play", "Play", PLAY)}
    ${button("forward", "One token forward", "M1 1v10l7-5zM9 1h2v10H9z")}
    <input type="range" class="qdelta-slider" min="0" step="1" aria-label="Token">
    <output class="qdelta-count"></output>
    <select class="qdelta-speed" title="Tokens per second" aria-label="Tokens per second"></select>
  </div>`;

const clamp = (x, low, high) => Math.max(low, Math.min(x, high));

/** Write a number in at most four digits, with a real minus sign. */
function format(x) {
  const size = Math.abs(x);
  const long = size > 0 && (size >= 1e4 || size < 1e-3);
  return (x < 0 ? "−" : "") + (long ? size.toExponential(2).replace("-", "−") : Number(size.toPrecision(4)));
}

/** Make a token's white space and control characters visible. */
function visible(label) {
  const names = { " ": "␣", "\n": "⏎", "\t": "⇥", "\x7f": "␡" };
  return label.replace(/[\0- \x7f]/g, (c) => names[c] ?? String.fromCharCode(0x2400 + c.charCodeAt())) || "∅";
}

/** Read little-endian float32; copied, because the buffer may start at any byte. */
function floats(view) {
  return new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

/** The states of one memory, and their picture. A state depends on its token alone, never on the way to it. */
class Memory {
  constructor({ name, tokens, stride, k, u, alpha, anchors }, { values, keys }) {
    Object.assign(this, { name, tokens, stride, values, keys });
    [this.k, this.u, this.alpha, this.anchors] = [k, u, alpha, anchors].map(floats);
    this.state = new Float64Array(values * keys); // Row-major [V, K].
    this.token = -1;
    this.image = Object.assign(document.createElement("canvas"), { width: keys, height: values });
  }

  /** Make `state` the one after `token`, or the last one, from where it is or from the anchor before. */
  seek(wanted) {
    const token = Math.min(wanted, this.tokens - 1);
    const block = Math.floor(token / this.stride);
    if (this.token < block * this.stride || this.token > token) {
      const size = this.state.length;
      this.state.set(this.anchors.subarray(block * size, (block + 1) * size));
      this.token = block * this.stride - 1;
    }
    while (this.token < token) this.step(++this.token);
  }

  step(t) {
    const { state, keys, values, k, u, alpha } = this;
    for (let row = 0, i = 0; row < values; row++) {
      const write = u[t * values + row];
      for (let column = 0; column < keys; column++, i++) {
        state[i] = alpha[t] * state[i] + write * k[t * keys + column];
      }
    }
  }

  /** Return the largest |S|, without what is not a number. */
  largest() {
    let most = 0;
    for (const x of this.state) if (Math.abs(x) > most) most = Math.abs(x);
    return most;
  }

  /** Colour the state into the image, one pixel a cell, and count what colours cannot say. */
  paint(limit, table) {
    const data = new ImageData(this.keys, this.values);
    const pixels = new Uint32Array(data.data.buffer);
    const half = (table.length - 1) / 2;
    this.nan = this.beyond = 0;
    for (let i = 0; i < this.state.length; i++) {
      const x = this.state[i] / limit;
      // The peak was found in single precision, so its last digits may be passed.
      if (Math.abs(x) > 1.00001) this.beyond++;
      if (Number.isNaN(x)) this.nan++;
      pixels[i] = Number.isNaN(x) ? GRAY : table[Math.round((clamp(x, -1, 1) + 1) * half)];
    }
    this.image.getContext("2d").putImageData(data, 0, 0);
  }
}

/** One clock and one token for all memories and views of a model. */
class Player {
  constructor() {
    this.views = new Set();
    this.memories = [];
    this.token = 0;
    this.request = 0; // The pending animation frame.
    this.report = 0; // The pending report to the kernel.
    this.reported = -Infinity;
  }

  attach(model) {
    this.model = model;
    const on = (name, handle) => model.on(`change:${name}`, handle);
    on("recording", () => this.load());
    on("colors", () => this.colour());
    // A report of our own comes back here with the token that is already shown.
    on("token", () => model.get("token") !== this.token && this.go(model.get("token"), false));
    on("playing", () => {
      if (this.playing && this.token === this.last) this.go(0, false);
      this.tell(true);
      this.refresh();
    });
    for (const name of ["speed", "limit", "colors_span", "title"]) on(name, () => this.refresh());
    this.colour();
    this.load();
  }

  get playing() {
    return this.model.get("playing") && this.loaded;
  }

  get loaded() {
    return this.memories.length > 0;
  }

  get last() {
    return this.loaded ? this.recording.tokens - 1 : 0;
  }

  load() {
    const recording = this.model.get("recording");
    // While time runs the token here is ahead of the model's, and a change of recording must not set it back.
    const token = this.loaded ? this.token : this.model.get("token");
    this.recording = recording;
    this.memories = (recording.memories ?? []).map((memory) => new Memory(memory, recording));
    this.go(token, false);
    this.show(); // Not in the next frame: other widgets may be about to keep the page busy.
  }

  colour() {
    this.colors = this.model.get("colors");
    this.table = Uint32Array.from(this.colors, (hex) => {
      const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
      return (255 << 24) | (b << 16) | (g << 8) | r;
    });
    this.refresh();
  }

  /** Show `token`; `report` tells the kernel. */
  go(token, report = true) {
    this.token = this.place = clamp(token, 0, this.last);
    if (report) this.tell();
    this.refresh();
  }

  setPlaying(playing) {
    this.model.set("playing", playing);
    this.model.save_changes();
  }

  /** Tell the kernel the token, now or when the next report is due. */
  tell(now = false) {
    clearTimeout(this.report);
    const wait = this.reported + this.model.get("report_interval") - performance.now();
    if (!now && wait > 0) {
      this.report = setTimeout(() => this.tell(true), wait);
      return;
    }
    this.reported = performance.now();
    this.model.set("token", this.token);
    this.model.save_changes();
  }

  open(view) {
    this.views.add(view);
    this.refresh();
  }

  close(view) {
    this.views.delete(view);
    view.controller.abort();
    view.root.remove();
  }

  refresh() {
    this.stale = true;
    this.wake();
  }

  wake() {
    if (!this.request && this.views.size) this.request = requestAnimationFrame((now) => this.frame(now));
  }

  frame(now) {
    this.request = 0;
    this.advance(now);
    this.show();
    if (this.playing) this.wake();
  }

  show() {
    if (!this.stale) return;
    this.stale = false;
    const begin = performance.now();
    this.paint();
    for (const view of this.views) view.draw(begin);
  }

  /** Move on by the time since the last frame; a page that was hidden must not leap. */
  advance(now) {
    const seconds = Math.min(now - (this.before ?? now), 250) / 1000;
    this.before = this.playing ? now : null;
    if (!this.playing) return;
    this.place = Math.min(this.place + seconds * this.model.get("speed"), this.last);
    if (Math.floor(this.place) !== this.token) {
      this.token = Math.floor(this.place);
      this.stale = true;
      this.tell();
    }
    if (this.token === this.last) this.setPlaying(false);
  }

  /** Colour all memories on one scale. */
  paint() {
    if (!this.loaded) return;
    for (const memory of this.memories) memory.seek(this.token);
    const whole = this.model.get("colors_span") === "recording";
    const most = () => (whole ? this.recording.peak : Math.max(...this.memories.map((memory) => memory.largest())));
    this.limit = this.model.get("limit") ?? (most() || 1);
    for (const memory of this.memories) memory.paint(this.limit, this.table);
  }
}

/** One memory's map with its name above. */
class Panel {
  constructor(place) {
    this.name = Object.assign(document.createElement("div"), { className: "qdelta-name" });
    this.picture = Object.assign(document.createElement("canvas"), { className: "qdelta-picture" });
    this.picture.setAttribute("role", "img");
    for (const part of [this.name, this.picture]) part.style.gridColumn = place + 2;
    const state = () => Float32Array.from(this.memory.state);
    this.picture.qdelta = { token: -1, frames: 0, lastDrawMs: 0, get state() { return state(); } };
  }

  /** Enlarge the memory's image, every cell by the same whole number of device pixels. */
  show(memory, token, side) {
    this.memory = memory;
    const { picture } = this;
    const { keys, values, name, tokens } = memory;
    const ratio = window.devicePixelRatio;
    const cell = Math.max(1, Math.floor((side * ratio) / Math.max(keys, values)));
    if (picture.width !== keys * cell) picture.width = keys * cell;
    if (picture.height !== values * cell) picture.height = values * cell;
    picture.style.width = `${picture.width / ratio}px`;
    const context = picture.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(memory.image, 0, 0, picture.width, picture.height);
    this.name.textContent = token < tokens ? name : `${name} (ends at token ${tokens - 1})`;
    this.name.hidden = !this.name.textContent;
    const what = `Heat map of the memory, ${values} value rows by ${keys} key columns`;
    picture.setAttribute("aria-label", name ? `${name}: ${what}` : what);
  }
}

/** One drawing of a player: the maps, their colour bar, the labels and the controls. */
class View {
  constructor(player, el) {
    this.player = player;
    this.panels = [];
    this.root = document.createElement("div");
    Object.assign(this.root, { className: "qdelta-scrubber", tabIndex: 0, innerHTML: PAGE });
    this.root.setAttribute("role", "group");
    for (const part of this.root.querySelectorAll("[class^=qdelta-]")) {
      this[part.className.slice("qdelta-".length)] = part;
    }
    el.append(this.root);
    this.listen();
  }

  listen() {
    const { player } = this;
    const { signal } = (this.controller = new AbortController());
    const on = (target, type, handle) => target.addEventListener(type, handle, { signal });
    on(this.back, "click", () => player.go(player.token - 1));
    on(this.forward, "click", () => player.go(player.token + 1));
    on(this.play, "click", () => player.setPlaying(!player.playing));
    on(this.slider, "input", () => player.go(this.slider.valueAsNumber));
    on(this.speed, "change", () => {
      player.model.set("speed", Number(this.speed.value));
      player.model.save_changes();
    });
    on(window, "resize", () => player.refresh()); // The device pixel ratio may have changed.
    // JupyterLab takes its shortcuts at the document, on the way down; only the window is earlier.
    window.addEventListener("keydown", (event) => this.press(event), { signal, capture: true });
  }

  /** Act on a key inside the widget, leaving to each control the keys that it knows itself. */
  press(event) {
    const { key, target } = event;
    const modified = event.ctrlKey || event.metaKey || event.altKey || event.shiftKey;
    if (modified || !this.root.contains(target) || !/^( |Enter|Arrow.*|Home|End|Page.*)$/.test(key)) return;
    event.stopPropagation();
    const { player } = this;
    const native = { SELECT: true, BUTTON: key === " " || key === "Enter", INPUT: key !== " " }[target.tagName];
    const act = {
      " ": () => player.setPlaying(!player.playing),
      ArrowRight: () => player.go(player.token + 1),
      ArrowLeft: () => player.go(player.token - 1),
      Home: () => player.go(0),
      End: () => player.go(player.last),
    }[key];
    if (native || !act || !player.loaded) return;
    event.preventDefault();
    act();
  }

  /** Make a panel for each memory, and room for the labels of tokens. */
  arrange(count) {
    for (const { name, picture } of this.panels) name.remove(), picture.remove();
    this.panels = Array.from({ length: count }, (_, i) => new Panel(i));
    for (const { name, picture } of this.panels) {
      this.map.append(name, picture);
      picture.addEventListener("pointermove", (event) => this.point(event));
      picture.addEventListener("pointerleave", () => this.point(null));
    }
    this.root.style.setProperty("--memories", count);
    this.root.classList.toggle("qdelta-several", count > 1);
    for (const side of [this.strip.firstElementChild, this.strip.lastElementChild]) {
      side.replaceChildren(...Array.from({ length: count * NEIGHBOURS }, () => document.createElement("span")));
    }
  }

  /** Remember the cell under the pointer. */
  point(event) {
    const { keys, values } = this.player.recording;
    const place = (at, size, count) => clamp(Math.floor((at / size) * count), 0, count - 1);
    this.hover = event && {
      row: place(event.offsetY, event.target.clientHeight, values),
      column: place(event.offsetX, event.target.clientWidth, keys),
    };
    this.describe();
  }

  /** Say what the pointer is on, in every memory, or else what the colours leave out. */
  describe() {
    const { memories, recording } = this.player;
    const { row, column } = this.hover ?? {};
    let text = "No recording yet: call load(k, u, alpha, anchors, stride).";
    if (row < recording?.values && column < recording?.keys) {
      const value = ({ name, state, keys }) => format(state[row * keys + column]) + (name && ` (${name})`);
      text = `value ${row}, key ${column}: ${memories.map(value).join(", ")}`;
    } else if (memories.length) {
      const cells = (count, what) => (count ? `${count} ${count === 1 ? "cell" : "cells"} ${what}` : "");
      const all = (what) => memories.reduce((sum, memory) => sum + memory[what], 0);
      const notes = [cells(all("nan"), "not a number (gray)"), cells(all("beyond"), "beyond the colour range")];
      text = notes.filter(Boolean).join(", ") || "Point at a cell to read its value.";
    }
    this.status.textContent = text;
  }

  draw(begin) {
    const { memories, model, playing, token, last, loaded, recording } = this.player;
    if (this.panels.length !== memories.length) this.arrange(memories.length);
    this.title.textContent = model.get("title");
    this.title.hidden = !this.title.textContent;
    this.root.setAttribute("aria-label", this.title.textContent || "Memory, token by token");
    this.play.title = playing ? "Pause" : "Play";
    this.play.setAttribute("aria-label", this.play.title);
    this.play.querySelector("path").setAttribute("d", playing ? PAUSE : PLAY);
    for (const name of ["back", "play", "forward", "slider", "speed"]) this[name].disabled = !loaded;
    Object.assign(this.slider, { max: last, value: token });
    this.count.textContent = `${token} / ${last}`;
    const labels = recording?.labels;
    const spoken = labels ? `${token}: ${JSON.stringify(labels[token])}` : String(token);
    this.slider.setAttribute("aria-valuetext", spoken);
    this.offer(model.get("speed"));
    this.map.hidden = !loaded;
    if (loaded) this.show(memories, token, recording);
    this.strip.hidden = !labels;
    if (labels) this.spell(labels, token);
    this.describe();
    for (const { picture } of this.panels) {
      const { qdelta } = picture;
      Object.assign(qdelta, { token, frames: qdelta.frames + 1, lastDrawMs: performance.now() - begin });
    }
  }

  show(memories, token, { keys, values }) {
    const { player, marks } = this;
    this.panels.forEach((panel, i) => panel.show(memories[i], token, SIDE(memories.length)));
    this.rows.textContent = `value (${values})`;
    this.columns.textContent = `key (${keys})`;
    marks.firstChild.textContent = format(player.limit);
    marks.lastChild.textContent = format(-player.limit);
    if (this.colors === player.colors) return;
    this.colors = player.colors;
    this.gradient.style.background = `linear-gradient(to top, ${player.colors.join()})`;
  }

  /** Offer the usual speeds and the one that is set. */
  offer(speed) {
    if (this.speed.value === String(speed)) return;
    const speeds = [...new Set([...SPEEDS, speed])].sort((a, b) => a - b);
    this.speed.replaceChildren(...speeds.map((n) => new Option(`${n} /s`, n, false, n === speed)));
  }

  /** Write the labels around the token. */
  spell(labels, token) {
    const [left, current, right] = this.strip.children;
    const write = (side, first) =>
      [...side.children].forEach((span, i) => {
        span.hidden = !(first + i in labels);
        span.textContent = visible(labels[first + i] ?? "");
      });
    write(left, token - left.children.length);
    write(right, token + 1);
    current.textContent = visible(labels[token]);
  }
}

export default () => {
  const player = new Player();
  return {
    initialize: ({ model }) => player.attach(model),
    render({ el }) {
      const view = new View(player, el);
      player.open(view);
      return () => player.close(view);
    },
  };
};
