// The view of LiveFigure. It asks Python for the figure once, and for plotly.js if no figure on the page has it yet,
// and then hears what changes. plotly.js is no part of this module: anywidget gives a module two seconds to load.

const CONFIG = { displaylogo: false, displayModeBar: false };
const ARRAYS = { f4: Float32Array, f8: Float64Array, i4: Int32Array };

/** Run plotly.js and return it; what else on the page may be called Plotly stays. */
async function load(source) {
  const before = globalThis.Plotly;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  await import(url);
  URL.revokeObjectURL(url);
  const loaded = globalThis.Plotly;
  globalThis.Plotly = before;
  return loaded;
}

/** Read an array [n] or [m, n] from its bytes, copied because they may start anywhere; null leaves things as they are. */
function unpacked(value, buffers) {
  if (value === null) return undefined;
  if (value.dtype === undefined) return value;
  const { buffer, byteOffset, byteLength } = buffers[value.buffer];
  const array = new ARRAYS[value.dtype](buffer.slice(byteOffset, byteOffset + byteLength));
  const [rows, columns] = value.shape;
  if (columns === undefined) return array;
  return Array.from({ length: rows }, (_, i) => array.subarray(i * columns, (i + 1) * columns));
}

function render({ model, el }) {
  const node = document.createElement("div");
  el.append(node);
  const asked = Math.random();
  let Plotly;
  let heard = false; // What comes before the figure is in it.
  let work = Promise.resolve(); // One thing after the other, though plotly.js may be on its way.

  async function draw({ figure }, [library]) {
    Plotly = await (globalThis.qdeltaPlotly ??= load(library)); // One for all figures of the page.
    const { data, layout } = JSON.parse(figure);
    const first = !node.data;
    await Plotly.react(node, data, layout, CONFIG);
    if (first) node.on("plotly_click", click);
  }

  function update({ traces, places, layout }, buffers) {
    const changes = {};
    for (const [name, values] of Object.entries(traces)) changes[name] = values.map((x) => unpacked(x, buffers));
    return Plotly.update(node, changes, layout, places);
  }

  function click({ points: [{ data, pointNumber }] }) {
    model.send({ clicked: data.meta, point: pointNumber });
  }

  function hear(message, buffers) {
    const mine = message.figure && (heard || message.asked === asked);
    heard ||= mine;
    if (mine) work = work.then(() => draw(message, buffers));
    else if (message.traces && heard) work = work.then(() => update(message, buffers));
  }

  model.on("msg:custom", hear);
  model.send({ asked, library: !globalThis.qdeltaPlotly });
  return () => {
    model.off("msg:custom", hear);
    Plotly?.purge(node);
  };
}

export default { render };
