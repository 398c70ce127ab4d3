// The view of LiveFigure, after plotly.js itself. It asks Python for the whole figure once, and then hears what changes.

const Plotly = window.Plotly;
const CONFIG = { displaylogo: false, displayModeBar: false };
const ARRAYS = { f4: Float32Array, f8: Float64Array, i4: Int32Array };

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
  let ready = false; // What is heard before the figure comes is in it.

  async function draw({ data, layout }) {
    const first = !ready;
    ready = true;
    await Plotly.react(node, data, layout, CONFIG);
    if (first) node.on("plotly_click", click);
  }

  function click({ points: [{ data, pointNumber }] }) {
    model.send({ clicked: data.meta, point: pointNumber });
  }

  function update({ traces, places, layout }, buffers) {
    const changes = {};
    for (const [name, values] of Object.entries(traces)) changes[name] = values.map((x) => unpacked(x, buffers));
    Plotly.update(node, changes, layout, places);
  }

  function hear(message, buffers) {
    if (message.figure && (ready || message.asked === asked)) draw(JSON.parse(message.figure));
    else if (message.traces && ready) update(message, buffers);
  }

  model.on("msg:custom", hear);
  model.send({ asked });
  return () => {
    model.off("msg:custom", hear);
    Plotly.purge(node);
  };
}

export default { render };
