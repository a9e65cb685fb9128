// What both pages use: the session, requests, elements.

// Turn the token in the fragment of the address, which no server sees, into a cookie.
export async function openSession() {
  const token = location.hash.slice(1);
  if (!token) return;
  history.replaceState(null, "", location.pathname);
  await ask("/v1/session", { method: "POST", headers: { Authorization: `Bearer ${token}` } });
}

const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

// Return the response; throw an Error with a message for people. A busy server is asked again.
export async function ask(path, options = {}, attempts = 60) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer, or the file cannot be read any more");
  }
  if (response.status === 429 && attempts > 1) {
    await wait(1);
    return ask(path, options, attempts - 1);
  }
  if (!response.ok) {
    const { detail } = await response.json().catch(() => ({}));
    throw new Error(typeof detail === "string" ? detail : `the server answers ${response.status}`);
  }
  return response;
}

// Make an element; what others named, such as files and classes, only ever becomes text.
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export const find = (id) => document.getElementById(id);

// Return a bar for each class.
export function makeBars(probabilities) {
  const entries = Object.entries(probabilities);
  const bars = make("div", { role: "img" });
  bars.setAttribute("aria-label", entries.map(([name, p]) => `${name} ${percent(p)}`).join(", "));
  for (const [name, p] of entries) {
    const fill = make("i");
    fill.style.width = `${100 * p}%`;
    bars.append(make("span", { className: "bar" }, fill, make("b", {}, `${name} ${percent(p)}`)));
  }
  return bars;
}

// As format_percent does: 0.0 and 100.0 mean exactly none and all.
function percent(p) {
  const text = (100 * p).toFixed(1);
  if (text === "0.0" && p > 0) return "< 0.1 %";
  return text === "100.0" && p < 1 ? "> 99.9 %" : `${text} %`;
}
