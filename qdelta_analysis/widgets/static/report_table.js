// The view of ReportTable: a row for each claim, and below them what was found of the chosen one. A claim's button
// chooses it; the button at its worst token also asks Python to go there.

const MARKS = { holds: "✓", "hypotheses not met": "–", violated: "✗" };

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(className, text, label, act) {
  const made = element("button", className, text);
  made.type = "button";
  made.title = label;
  made.addEventListener("click", act);
  return made;
}

function row(model, claim) {
  const choose = () => {
    model.set("chosen", claim.id);
    model.save_changes();
  };
  const go = () => {
    choose();
    model.send({ go: claim.token });
  };
  const made = element("tr");
  made.dataset.claim = claim.id;
  made.dataset.verdict = claim.verdict;
  made.setAttribute("aria-selected", claim.id === model.get("chosen"));
  const cells = ["claim", "verdict", "margin", "token"].map((name) => element("td", name));
  cells[0].append(button("choose", `${claim.id} ${claim.title}`, claim.words, choose));
  cells[1].append(element("b", "", `${MARKS[claim.verdict]} ${claim.verdict}`));
  cells[2].textContent = claim.margin;
  cells[2].title = `in ${claim.unit}`;
  if (claim.token >= 0) cells[3].append(button("go", claim.token, `go to token ${claim.token}`, go));
  else cells[3].textContent = "head";
  made.append(...cells);
  return made;
}

function details({ id, words, found, unmet, margin, unit, tolerance }) {
  const made = element("div", "details");
  made.append(element("b", "", `${id}: `), `${words}. Found: ${found}. Margin ${margin} in ${unit}, ${tolerance}.`);
  if (unmet.length) made.append(" ", element("i", "", `Not met: ${unmet.join("; ")}.`));
  return made;
}

function render({ model, el }) {
  el.classList.add("qdelta-report");
  const draw = () => {
    const claims = model.get("claims");
    const table = element("table");
    const head = element("tr");
    head.append(...["claim", "", "margin", "worst at"].map((name) => element("th", "", name)));
    table.append(head, ...claims.map((claim) => row(model, claim)));
    const chosen = claims.find(({ id }) => id === model.get("chosen"));
    el.replaceChildren(element("div", "summary", model.get("summary")), table);
    if (chosen) el.append(details(chosen));
  };
  // New rows would take the keyboard's focus away: it goes back to the same button.
  const redraw = () => {
    const held = el.contains(document.activeElement) && document.activeElement;
    const claim = held && held.closest("tr")?.dataset.claim;
    draw();
    if (claim) el.querySelector(`[data-claim="${claim}"] .${held.className}`)?.focus();
  };
  model.on("change:claims change:chosen", redraw);
  draw();
  return () => model.off("change:claims change:chosen", redraw);
}

export default { render };
