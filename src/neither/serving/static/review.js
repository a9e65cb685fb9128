import { ask, find, make, makeBars, openSession } from "/static/common.js";

const NUM_AHEAD = 12; // images in the strip
const VAL_QUEUES = ["confident mistakes", "unsure", "all of val"];
const KEEP = "<keep>";
const DIGIT_SECONDS = 0.7; // to type a second digit
const selected = new Set();
const done = []; // { queue, before }, to undo
let review, queue, index = null; // of the image that is shown
let isShown = false, isBusy = false, digits = "", timer;

const ACTIONS = [["d", "drop", () => answer(review.dropped)], ["k", "keep", () => answer(KEEP)], ["u", "undo", undo],
  ["n", "next", () => move(1)], ["p", "previous", () => move(-1)], ["h", "heat map", toggleHeatMap],
  ["a", "select all", selectAll], ["q", "other queue", nextQueue]];
const KEYS = Object.fromEntries(ACTIONS.map(([key, , act]) => [key, act]));
Object.assign(KEYS, { ArrowRight: KEYS.n, ArrowLeft: KEYS.p, Escape: () => select([]) });

async function start() {
  await openSession();
  const model = await (await ask("/v1/model")).json();
  review = await (await ask("/v1/review")).json();
  document.title = find("name").textContent = `Review of ${model.name}`;
  find("file").textContent = `Answers are saved at once in ${review.file}. No image is changed.`;
  for (const name of Object.keys(review.queues)) {
    find("queues").append(make("button", { type: "button", onclick: () => open(name), name }));
  }
  review.classes.forEach((name, number) => find("classes").append(makeButton(number + 1, name, () => answer(name))));
  for (const [key, name, act] of ACTIONS) {
    if (key !== "h" || review.has_heat_maps) find("actions").append(makeButton(key, name, act));
  }
  const names = Object.keys(review.queues);
  open(names.find((name) => left(name).length) ?? names[0]);
}

function makeButton(key, name, act) {
  return make("button", { type: "button", onclick: () => run(act) }, make("kbd", {}, key), name);
}

const left = (name) => review.queues[name].filter((each) => !(each in review.answers));

function open(name) {
  queue = name;
  show(left(name)[0] ?? review.queues[name][0] ?? null);
}

function nextQueue() {
  const names = Object.keys(review.queues);
  open(names[(names.indexOf(queue) + 1) % names.length]);
}

function move(step) {
  const order = review.queues[queue], next = order[order.indexOf(index) + step];
  if (next !== undefined) show(next);
}

// Show the first image without an answer after the present one, or else the first of all.
function advance() {
  const open = left(queue), position = review.queues[queue].indexOf(index);
  show(open.find((each) => review.queues[queue].indexOf(each) > position) ?? open[0] ?? index);
}

function show(next) {
  index = next;
  setShown(false);
  find("work").hidden = index === null;
  if (index !== null) {
    find("image").src = `/v1/images/${index}/large`;
    describe(index).catch(report);
  }
  update();
}

async function describe(shown) {
  find("label").textContent = find("path").textContent = "";
  find("bars").replaceChildren();
  const { label, split, prefers, prediction } = await (await ask(`/v1/images/${shown}`)).json();
  if (shown !== index) return;
  find("label").textContent = label ? `label: ${label}` : "a new image";
  find("path").textContent = split ? `${prediction.path} (${split})` : prediction.path;
  if (prediction.probabilities) find("bars").append(makeBars(prediction.probabilities));
  if (prefers && prefers !== label) find("label").append(`, perhaps ${prefers}`);
  if (shown in review.answers) find("label").append(`; answer: ${review.answers[shown]}`);
}

function update() {
  for (const button of find("queues").children) {
    button.ariaPressed = String(button.name === queue);
    button.textContent = `${button.name} (${left(button.name).length})`;
  }
  find("note").hidden = !VAL_QUEUES.includes(queue);
  const num = review.queues[queue].length, open = left(queue);
  find("progress").value = num ? (num - open.length) / num : 1;
  find("summary").textContent = `${num - open.length} of ${num} answered, ${open.length} left. ` +
    `${review.num_changed} labels changed in all.`;
  const { num_images, num_wrong, interval } = review.estimate;
  const [low, high] = interval.map((p) => (100 * p).toFixed(1));
  find("sample").textContent = num_images
    ? `Of ${num_images} images of the random sample ${num_wrong} had a wrong label. So ${low} to ${high} % of all labels ` +
      "were wrong before this review, with 95 % confidence."
    : "Answer the queue “random sample” to estimate it: the other queues are no fair sample.";
  const ahead = open.filter((each) => each !== index).slice(0, NUM_AHEAD);
  for (const each of selected) if (!ahead.includes(each)) selected.delete(each);
  const known = new Map([...find("strip").children].map((item) => [Number(item.dataset.index), item]));
  find("strip").replaceChildren(...ahead.map((each) => known.get(each) ?? makeItem(each)));
  if (ahead.length) new Image().src = `/v1/images/${ahead[0]}/large`; // so that it is there when its turn comes
  select([...selected]);
}

function makeItem(each) {
  const image = make("img", { src: `/v1/images/${each}/small`, alt: `image ${each}` });
  const button = make("button", { type: "button" }, image);
  button.onclick = () => select(selected.has(each) ? [...selected].filter((one) => one !== each) : [...selected, each]);
  const item = make("li", {}, button);
  item.dataset.index = each;
  return item;
}

function select(indices) {
  selected.clear();
  for (const each of indices) selected.add(each);
  for (const item of find("strip").children) {
    item.firstChild.ariaPressed = String(selected.has(Number(item.dataset.index)));
  }
  find("selection").textContent = selected.size
    ? `${selected.size} selected: the next key answers them, not the large image. Escape selects none.`
    : "Select several to answer them with one key.";
}

function selectAll() {
  select([...find("strip").children].map((item) => Number(item.dataset.index)));
}

function toggleHeatMap() {
  const map = `/v1/images/${index}/heat_map`, image = find("image");
  if (review.has_heat_maps && index !== null) image.src = image.src.endsWith(map) ? `/v1/images/${index}/large` : map;
}

async function answer(label) {
  if (index === null || (!selected.size && !isShown)) return; // never about an image that nobody has seen
  const indices = selected.size ? [...selected] : [index];
  const before = await send(queue, Object.fromEntries(indices.map((each) => [each, label])));
  done.push({ queue, before });
  const isOther = selected.size > 0;
  selected.clear();
  if (isOther && !(index in before)) update();
  else advance();
}

async function undo() {
  const last = done.at(-1);
  if (!last) return;
  await send(last.queue, last.before);
  done.pop();
  queue = last.queue;
  show(Number(Object.keys(last.before)[0]));
}

async function send(name, answers) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" } };
  const body = JSON.stringify({ queue: name, answers });
  const { before, ...state } = await (await ask("/v1/answers", { ...options, body })).json();
  Object.assign(review, state);
  return before;
}

// Run one action at a time; what is pressed meanwhile would be about an image not seen yet.
async function run(act) {
  if (isBusy) return;
  isBusy = true;
  find("problem").textContent = "";
  await Promise.resolve(act()).catch(report);
  isBusy = false;
}

function report(error) {
  find("problem").textContent = error.message;
}

// Classes have numbers of one digit or more: wait while a longer one is possible.
function type(digit) {
  digits += digit;
  clearTimeout(timer);
  const choose = () => {
    const name = review.classes[Number(digits) - 1];
    digits = "";
    if (name) run(() => answer(name));
  };
  const isLonger = review.classes.some((_, number) => String(number + 1).startsWith(digits) && String(number + 1) !== digits);
  if (isLonger) timer = setTimeout(choose, 1000 * DIGIT_SECONDS);
  else choose();
}

function setShown(shown) {
  isShown = shown;
  find("work").ariaBusy = String(!shown);
}

find("image").onload = () => setShown(true);
find("image").onerror = () => report(new Error("this image cannot be shown; go on with the next"));
document.addEventListener("keydown", (event) => {
  if (!review || event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^\d$/.test(event.key)) type(event.key);
  else if (KEYS[event.key]) {
    event.preventDefault();
    run(KEYS[event.key]);
  }
});
start().catch(report);
