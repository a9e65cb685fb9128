import { ask, find, make, makeBars, openSession } from "/static/common.js";

const AT_ONCE = 4; // requests
const THUMBNAIL = 320; // pixels
const UNSURE = "unsure";
const rows = []; // { file, card, record } in the order of the images
let model, numDone = 0, numRunning = 0, next = 0;

async function start() {
  await openSession();
  model = await (await ask("/v1/model")).json();
  document.title = find("name").textContent = model.name;
  find("classes").textContent = `classifies an image as ${model.classes.join(", ")}, or is ${UNSURE}`;
  find("rules").append(...model.decision_rule.map((line) => make("li", {}, line)));
  find("reject").textContent = model.reject_class
    ? `Not sure to notice all other things: ${model.reject_class} means none of the others, as far as its training images cover that.`
    : "It has no class for images of other things, and answers with one of its classes all the same.";
  showFigures("Evaluated on images like its own", model.evaluations, "Not measured: evaluate.py measures it.");
  showFigures("On images from elsewhere", model.cross_validation,
    "Not measured: expect less on images of other cameras, places and styles. cross_validate.py measures it.");
  process();
}

function showFigures(title, figures, otherwise) {
  const lines = figures.map(({ name, sentences }) => make("p", {}, make("b", {}, `${name}: `), sentences.join(" ")));
  find("figures").append(make("h4", {}, title), ...(lines.length ? lines : [make("p", {}, otherwise)]));
}

function add(files) {
  for (const file of files) {
    const card = make("li", { className: "card" }, make("p", { className: "soft name" }, file.name));
    rows.push({ file, card });
    find("cards").append(card);
  }
  if (rows.length) find("results").hidden = false;
  process();
}

function process() {
  while (model && numRunning < AT_ONCE && next < rows.length) {
    numRunning += 1;
    predict(rows[next++]).finally(() => {
      numRunning -= 1;
      numDone += 1;
      process();
    });
  }
  find("progress").value = rows.length ? numDone / rows.length : 0;
  find("progress").hidden = !(find("clear").disabled = numDone < rows.length);
  if (numDone === rows.length) find("summary").textContent = summarize();
}

function formOf(file) {
  const form = new FormData();
  form.append("file", file, file.name);
  return { method: "POST", body: form };
}

async function predict(row) {
  const { file, card } = row;
  card.prepend(await makeThumbnail(file));
  try {
    row.record = (await (await ask("/v1/predict", formOf(file))).json()).predictions[0];
  } catch (error) {
    row.record = { path: file.name, status: "failed", error: error.message };
  }
  const { status, decision, probabilities, error } = row.record;
  if (status !== "ok") {
    card.append(make("p", { className: "decision error" }, status), make("p", {}, error));
    return;
  }
  const kind = decision === UNSURE ? "decision unsure" : "decision";
  card.append(make("p", { className: kind }, decision), make("p", { className: "reason" }, explain(row.record)));
  card.append(makeBars(probabilities));
  if (model.has_heat_maps) card.append(makeHeatMap(row));
}

function explain({ predicted, decision, reason }) {
  const { threshold, reject_threshold } = model.thresholds;
  if ((predicted === model.reject_class ? reject_threshold : threshold) == null) return `most probable; ${reason}`;
  if (decision === UNSURE) return `${predicted} is most probable, but below its threshold: ${reason}`;
  return `most probable, and reaches its threshold: ${reason}`;
}

async function makeThumbnail(file) {
  try {
    const bitmap = await createImageBitmap(file, { resizeHeight: THUMBNAIL, resizeQuality: "medium" });
    const canvas = make("canvas", { width: bitmap.width, height: bitmap.height });
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    canvas.role = "img";
    canvas.ariaLabel = file.name;
    return canvas;
  } catch { // a format that browsers do not show
    return make("span", { className: "missing" }, "no thumbnail");
  }
}

function makeHeatMap({ file, card, record }) {
  const button = make("button", { type: "button" }, "Heat map");
  button.ariaExpanded = "false";
  let image;
  button.onclick = async () => {
    try {
      if (!image) {
        button.disabled = true;
        const blob = await (await ask("/v1/explain", formOf(file))).blob();
        const alt = `${file.name}, and beside it its heat map: red speaks for ${record.predicted}, blue against it`;
        image = make("img", { src: URL.createObjectURL(blob), alt, hidden: true });
        card.append(image, make("p", { className: "soft" }, `red speaks for ${record.predicted}, blue against it`));
      }
      image.hidden = image.nextSibling.hidden = !image.hidden;
      button.ariaExpanded = String(!image.hidden);
    } catch (error) {
      show(error);
    } finally {
      button.disabled = false;
    }
  };
  return button;
}

function summarize() {
  const counts = {};
  for (const { record } of rows) counts[record.decision ?? record.status] = (counts[record.decision ?? record.status] ?? 0) + 1;
  return `${rows.length} images: ` + Object.entries(counts).map(([name, num]) => `${name} ${num}`).join(", ");
}

// The columns of predictions.csv.
function toCsv() {
  const header = ["path", "status", "predicted", "decision", "reason", "certified", "confidence",
    ...model.classes.map((name) => `prob_${name}`), "true_label", "error"];
  const lines = rows.filter(({ record }) => record).map(({ record }) => [
    /^[=+\-@\0-\x1f]/.test(record.path) ? `./${record.path}` : record.path, // no formula in a spreadsheet
    record.status, record.predicted, record.decision, record.reason, record.certified, record.confidence?.toFixed(6),
    ...model.classes.map((name) => record.probabilities?.[name].toFixed(6)), "", record.error]);
  const quote = (cell) => (/[",\r\n]/.test(cell ?? "") ? `"${cell.replaceAll('"', '""')}"` : cell ?? "");
  return [header, ...lines].map((cells) => cells.map(quote).join(",") + "\n").join("");
}

function show(error) {
  find("problem").textContent = error.message;
}

find("choose").onclick = () => find("files").click();
find("photograph").onclick = () => find("camera").click();
for (const id of ["files", "camera"]) {
  find(id).onchange = ({ target }) => {
    add([...target.files]);
    target.value = ""; // so that the same file can be chosen again
  };
}
document.onpaste = (event) => add(event.clipboardData.files);
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    find("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") add(event.dataTransfer.files);
  });
}
find("save").onclick = () => {
  const link = make("a", { href: URL.createObjectURL(new Blob([toCsv()], { type: "text/csv" })), download: "predictions.csv" });
  link.click();
  URL.revokeObjectURL(link.href);
};
find("clear").onclick = () => {
  for (const image of document.querySelectorAll(".card img")) URL.revokeObjectURL(image.src);
  next = numDone = rows.length = 0;
  find("cards").replaceChildren();
  find("results").hidden = true;
};
start().catch(show);
