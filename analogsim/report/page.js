// The page itself: check boxes, sorting, printing.
const pictures = [];

function addSwitches() {
  const box = document.getElementById("switches");
  data.switches.forEach(({label, values}, row) => {
    const set = document.createElement("fieldset"), legend = document.createElement("legend");
    legend.textContent = label;
    set.append(legend);
    values.forEach((value, i) => {
      const words = document.createElement("label"), input = document.createElement("input");
      Object.assign(input, {type: "checkbox", checked: true});
      input.onchange = () => {
        input.checked ? off[row].delete(i) : off[row].add(i);
        for (const picture of pictures) picture.draw();
      };
      words.append(input, value);
      set.append(words);
    });
    box.append(set);
  });
}

/** Sort by the column of a header; again: the other way round. Empty cells stay last. */
function sortBy(button) {
  const header = button.parentElement, body = header.closest("table").tBodies[0], column = header.cellIndex;
  const up = header.getAttribute("aria-sort") !== "ascending";
  const keyed = [...body.rows].map(row => [row.cells[column].dataset.v, row]);
  const numbers = keyed.every(([key]) => key === "" || Number.isFinite(Number(key)));
  const order = (a, b) => (numbers ? a - b : a.localeCompare(b, undefined, {numeric: true}));
  keyed.sort(([a], [b]) => (a === "" || b === "" ? (a === "") - (b === "") : (up ? 1 : -1) * order(a, b)));
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...keyed.map(([, row]) => row));
}

/** On paper the pictures take the width of a page; afterwards that of the window again. */
function fitPaper(printing) {
  for (const panel of document.querySelectorAll(".panel")) {
    if (!panel.layout) continue;
    const alone = panel.parentElement.children.length === 1;
    const size = printing ? {width: alone ? 680 : 335, height: alone ? 360 : 290} : {width: null, height: null, autosize: true};
    Plotly.relayout(panel, size);
  }
}

addSwitches();
if (data.sweep) pictures.push(new Sweep());
else document.getElementById("sweep").remove();
pictures.push(new Curves());
for (const picture of pictures) picture.draw();
for (const button of document.querySelectorAll(".sortable th button")) button.onclick = () => sortBy(button);
addEventListener("beforeprint", () => fitPaper(true));
addEventListener("afterprint", () => fitPaper(false));
document.body.dataset.ready = Math.round(performance.now());
