// What the explorer shows, looked at in every frame: when a press of a key has reached all panels, and how often
// the canvas of the memory is drawn.
window.qdeltaBench = (() => {
  const canvas = () => document.querySelector("canvas.qdelta-picture");
  const words = () => document.querySelector(".qdelta-words").textContent;
  const spectrum = () =>
    [...document.querySelectorAll(".js-plotly-plot")]
      .flatMap((plot) => plot.data)
      .find((trace) => trace.name === "eigenvalues of A");
  const list = (x) => Array.from(x._inputArray ?? x);
  const frame = () => new Promise(requestAnimationFrame);

  const state = () => canvas().qdelta.state;
  const near = (a, b, tolerance) => Math.abs(a - b) <= tolerance;
  const shown = {
    state: ({ state: expected, tolerance }) => {
      const found = state();
      return found.length === expected.length && expected.every((x, i) => near(x, found[i], tolerance));
    },
    eigenvalue: ({ eigenvalue }) => near(list(spectrum().x)[1], eigenvalue, 1e-9),
    words: ({ sentences }) => sentences.every((sentence) => words().includes(sentence)),
  };

  /** Wait for the next key; resolve to the milliseconds from there until each panel, and the last, is on screen. */
  function watch(expected, patience) {
    return new Promise((resolve, reject) => {
      const begin = async () => {
        const pressed = performance.now();
        const reached = {};
        const missing = () => Object.keys(shown).filter((panel) => !(panel in reached));
        while (missing().length) {
          await frame();
          const now = performance.now();
          if (now - pressed > patience) return reject(new Error(`the page never showed the new ${missing()}`));
          for (const panel of missing()) if (shown[panel](expected)) reached[panel] = now - pressed;
        }
        await frame(); // What this frame drew is on screen when the next one begins.
        resolve({ ...reached, all: performance.now() - pressed });
      };
      window.addEventListener("keydown", begin, { capture: true, once: true });
    });
  }

  /** Collect the times of the frames in which the canvas was drawn, until asked for them. */
  function record() {
    const times = [];
    let going = true;
    let before = canvas().qdelta.frames;
    (async () => {
      while (going) {
        const now = await frame();
        const { frames } = canvas().qdelta;
        if (frames !== before) times.push(now);
        before = frames;
      }
    })();
    return () => ((going = false), times);
  }

  return { watch, record };
})();
