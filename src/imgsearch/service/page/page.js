// The page of imgsearch serve. Data (names, titles, messages) is put in as text or as an attribute, never as markup.

const LONGER_SIDE = 1024; // of what is uploaded, in pixels
const HITS = 24;
const SMALLEST = 16; // side of a box, in pixels of the picture
const LANGUAGES = { en: "en", zh: "zh-Hans" };

const byId = (id) => document.getElementById(id);
const language = navigator.languages.map((name) => name.slice(0, 2)).find((name) => name in LANGUAGES) ?? "en";
const strings = await (await fetch(`page/${language}.json`)).json();
const plurals = new Intl.PluralRules(language);
const whole = new Intl.NumberFormat(language);
const amount = new Intl.NumberFormat(language, { minimumFractionDigits: 2 });
const percent = new Intl.NumberFormat(language, { style: "percent" });

let about; // what /index says
let asked = null; // {blob, width?, height?} of a picture, or {hit} of an item, or {} of words alone
let box = null; // [x, y, width, height] in pixels of the picture; null for all of it
let answer = null;
let running = new AbortController(); // of the search that the hits will be of
let pause; // between the last key that moves the box and the search
let judging = Promise.resolve(); // what was judged is being sent
const picked = new Map(); // path -> hit, to compare

// Words and requests

function say(key, values = {}) {
  let text = strings[key];
  if (typeof text === "object") text = text[plurals.select(values.count)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name];
    return typeof value === "number" ? whole.format(value) : value;
  });
}

function fillWords(root) {
  for (const each of root.querySelectorAll("[data-text]")) each.textContent = say(each.dataset.text);
  for (const each of root.querySelectorAll("[data-label]")) each.setAttribute("aria-label", say(each.dataset.label));
  for (const each of root.querySelectorAll("[data-hint]")) each.placeholder = say(each.dataset.hint);
}

// Fetches JSON; errors are those of the server (RFC 9457), in its words where there are none of the page.
async function request(url, options) {
  const fail = (error) => {
    throw error.name === "AbortError" ? error : new Error(say("no_answer"));
  };
  const response = await fetch(url, options).catch(fail);
  const { ok, status } = response;
  if (status === 204) return null;
  if (ok) return response.json().catch(fail);
  const { detail = say("refused", { status }), hint } = await response.json().catch(() => ({}));
  throw new Error(strings.errors[status] ?? (hint ? `${detail} (${hint})` : detail));
}

function showError(error) {
  if (error.name === "AbortError") return;
  byId("error").textContent = error.message;
  byId("error").hidden = false;
  byId("error").scrollIntoView({ block: "nearest" }); // it may be about a hit far below
  byId("status").textContent = "";
}

function showStatus(text) {
  byId("error").hidden = true;
  byId("status").textContent = text;
}

// What is asked for

// Feedback is about pictures: it has no effect on words alone.
const isWithPicture = () => Boolean(asked.blob || asked.hit);

function filters() {
  const fields = { k: HITS };
  for (const name of ["category", "color"]) if (byId(name).value) fields[name] = byId(name).value;
  const [low, high] = [byId("low").value, byId("high").value];
  if (low || high) fields.range = [`${byId("column").value}=${low}..${high}`];
  if (byId("use-feedback").checked && isWithPicture()) fields.feedback = true;
  return fields;
}

async function send(fields, signal) {
  const pairs = Object.entries(fields).flatMap(([name, value]) => [value].flat().map((each) => [name, `${each}`]));
  if (asked.hit && !fields.text) {
    // The address of an item is as the server wrote it: its name may hold bytes that are no text.
    return request(`similar/${asked.hit.url.slice("items/".length)}?${new URLSearchParams(pairs)}`, { signal });
  }
  if (!asked.blob) {
    const body = JSON.stringify(asked.hit ? { ...fields, item: asked.hit.path } : fields);
    return request("search", { method: "POST", headers: { "Content-Type": "application/json" }, body, signal });
  }
  const body = new FormData();
  const isCut = box && fields.text; // the server takes words with whole pictures only
  body.append("image", isCut ? await cutOut(box) : asked.blob, "picture");
  for (const [name, value] of pairs) body.append(name, value);
  if (box && !isCut && !fields.objects) body.append("box", box.join(","));
  return request("search", { method: "POST", body, signal });
}

// Shows the hits of what is asked; returns whether there is an answer.
async function search() {
  const text = byId("text").value.trim();
  asked ??= {};
  clearTimeout(pause);
  if (!isWithPicture() && !text) return false;
  running.abort();
  running = new AbortController();
  const { signal } = running;
  showStatus(say("searching"));
  byId("answer").setAttribute("aria-busy", "true");
  const fields = filters();
  if (text) fields.text = [text];
  try {
    const found = await send(fields, signal);
    showHits(found);
  } catch (error) {
    if (signal.aborted) return false; // a later search has taken its place
    showHits(null);
    showError(error);
  }
  byId("answer").setAttribute("aria-busy", "false");
  return answer !== null;
}

async function findItems() {
  const mine = asked;
  try {
    const { objects } = await send({ objects: true, k: 1 }, undefined);
    if (asked === mine) showFound(objects.map((each) => each.box));
  } catch (error) {
    if (asked === mine) showError(error);
  }
}

// The picture

// Draws a picture, at most so large as is uploaded; null where the browser cannot read it, or another is asked with.
async function draw(blob) {
  const mine = asked;
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    return null;
  }
  if (asked !== mine) return null;
  const scale = Math.min(1, LONGER_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = byId("picture");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // JPEG has no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  byId("stage").style.aspectRatio = `${canvas.width} / ${canvas.height}`;
  byId("stage").style.width = `min(100%, ${(45 * canvas.width) / canvas.height}vh)`;
  return { isSmaller: scale < 1 };
}

const asJpeg = (canvas) => new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));

function cutOut([x, y, width, height]) {
  const part = Object.assign(document.createElement("canvas"), { width, height });
  part.getContext("2d").drawImage(byId("picture"), x, y, width, height, 0, 0, width, height);
  return asJpeg(part);
}

function showPicture(isDrawn, label) {
  byId("stage").hidden = !isDrawn;
  byId("stage").classList.toggle("can-mark", isDrawn && Boolean(asked.blob));
  byId("undrawn").hidden = isDrawn || !asked.blob;
  byId("remove").hidden = !(about.has_words && isWithPicture());
  byId("picture").setAttribute("aria-label", label);
  byId("mark").hidden = byId("box-hint").hidden = !(isDrawn && asked.blob);
  byId("drop-hint").hidden = isWithPicture();
  showFound([]);
  setBox(null);
}

async function askWithPicture(file) {
  if (!file) return;
  if (file.type && !file.type.startsWith("image/")) {
    showError(new Error(say("not_a_picture")));
    return;
  }
  const mine = { blob: file };
  asked = mine;
  box = null;
  running.abort();
  const drawn = await draw(file);
  if (drawn?.isSmaller) {
    mine.blob = await asJpeg(byId("picture"));
  }
  if (asked !== mine) return;
  showPicture(Boolean(drawn), say("picture"));
  if ((await search()) && drawn && asked === mine) await findItems();
}

async function askWithItem(hit) {
  const mine = { hit };
  asked = mine;
  byId("text").value = "";
  box = null;
  const searched = search();
  const thumbnail = await fetch(`${hit.url}/thumbnail`).catch(() => null);
  const drawn = thumbnail?.ok && asked === mine && (await draw(await thumbnail.blob()));
  if (asked === mine) showPicture(Boolean(drawn), say("similar_to", { title: titleOf(hit) }));
  await searched;
  if (asked === mine) byId("hits-heading").focus();
}

// Asks in words alone.
async function removePicture() {
  asked = {};
  running.abort();
  showPicture(false, "");
  byId("text").focus();
  if (byId("text").value.trim()) {
    await search();
  } else {
    showHits(null);
    byId("answer").setAttribute("aria-busy", "false");
    showStatus(say("start_words"));
  }
}

// Boxes

const size = () => [byId("picture").width, byId("picture").height];
const between = (low, value, high) => Math.max(low, Math.min(Math.round(value), high));

function place(element, [x, y, w, h]) {
  const [width, height] = size();
  element.style.left = `${(100 * x) / width}%`;
  element.style.top = `${(100 * y) / height}%`;
  element.style.width = `${(100 * w) / width}%`;
  element.style.height = `${(100 * h) / height}%`;
}

function setBox(wanted) {
  box = wanted;
  byId("box").hidden = byId("whole").hidden = !box;
  if (!box) return;
  const [width, height] = size();
  const w = between(Math.min(SMALLEST, width), box[2], width);
  const h = between(Math.min(SMALLEST, height), box[3], height);
  box = [between(0, box[0], width - w), between(0, box[1], height - h), w, h];
  place(byId("box"), box);
  byId("box").setAttribute("aria-label", say("box_label", { x: box[0], y: box[1], width: w, height: h }));
}

function showFound(boxes) {
  const buttons = boxes.map((each, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "found";
    button.setAttribute("aria-label", say("found", { number: index + 1, count: boxes.length }));
    place(button, each);
    button.addEventListener("click", () => searchPart(each));
    return button;
  });
  byId("found").replaceChildren(...buttons);
}

function searchPart(wanted) {
  setBox(wanted);
  byId(wanted ? "box" : "mark").focus();
  search();
}

function startDrag(event) {
  if (event.button !== 0 || !asked?.blob) return;
  const [width, height] = size();
  const stage = byId("stage");
  const frame = stage.getBoundingClientRect();
  const scale = width / frame.width;
  const pointAt = ({ clientX, clientY }) => [
    between(0, (clientX - frame.left) * scale, width),
    between(0, (clientY - frame.top) * scale, height),
  ];
  const start = pointAt(event);
  const before = box;
  const isCorner = event.target === byId("corner");
  const isBox = event.target === byId("box");
  const listening = new AbortController();
  let isDragged = false;

  const drag = (moved) => {
    const [x, y] = pointAt(moved);
    const [dx, dy] = [x - start[0], y - start[1]];
    if (!isDragged && Math.hypot(dx, dy) < 5 * scale) return; // a click, by a hand that is not quite still
    isDragged = true;
    stage.setPointerCapture(moved.pointerId);
    if (isCorner) setBox([before[0], before[1], x - before[0], y - before[1]]);
    else if (isBox) setBox([before[0] + dx, before[1] + dy, before[2], before[3]]);
    else setBox([Math.min(x, start[0]), Math.min(y, start[1]), Math.abs(dx), Math.abs(dy)]);
  };
  const end = ({ type }) => {
    listening.abort();
    if (type === "pointercancel") setBox(before);
    else if (isDragged) searchPart(box);
  };
  // Not of the stage: a fast pointer is outside of it with its first step.
  document.addEventListener("pointermove", drag, listening);
  document.addEventListener("pointerup", end, listening);
  document.addEventListener("pointercancel", end, listening);
}

function moveByKey(event) {
  if (event.key === "Escape" || event.key === "Delete") {
    searchPart(null);
    return;
  }
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const direction = directions[event.key];
  if (!direction) return;
  event.preventDefault();
  const step = Math.max(1, Math.round(Math.max(...size()) / 50));
  const changed = [...box];
  const first = event.shiftKey ? 2 : 0;
  changed[first] += direction[0] * step;
  changed[first + 1] += direction[1] * step;
  setBox(changed);
  clearTimeout(pause);
  pause = setTimeout(search, 400);
}

// Hits

function titleOf({ metadata, product, path }) {
  const translated = Object.keys(metadata).find((name) => `${name}_`.startsWith(`title_${language}_`)) ?? "title";
  return `${metadata[translated] || metadata.title || product || path}`;
}

function shown(value) {
  if (typeof value === "number") return (Number.isInteger(value) ? whole : amount).format(value);
  return typeof value === "object" ? JSON.stringify(value) : `${value}`;
}

function scoreOf({ score, probability }) {
  const values = { score: score.toFixed(2) };
  if (probability === undefined) return say("score_only", values);
  return say("score_and_probability", { ...values, probability: percent.format(probability) });
}

function showHits(found) {
  answer = found;
  const hits = found?.hits ?? [];
  byId("hits").replaceChildren(...hits.map(hitElement));
  const values = { count: hits.length, title: asked.hit ? titleOf(asked.hit) : "" };
  if (!found) return;
  byId("about").textContent = say("about", found.index); // another generation may have been published
  showStatus(say(!hits.length ? "nothing_found" : asked.hit ? "hits_similar" : "hits_found", values));
}

function hitElement(hit) {
  const element = byId("hit").content.cloneNode(true).firstElementChild;
  const title = titleOf(hit);
  const part = (selector) => element.querySelector(selector);
  fillWords(element);
  part(".thumbnail").href = `${hit.url}/image`;
  part("img").src = `${hit.url}/thumbnail`;
  part("img").alt = title;
  part("h3").textContent = title;
  part(".price").textContent = shown(hit.metadata.price ?? "");
  part(".category").textContent = hit.category;
  part(".score").textContent = scoreOf(hit);
  part(".more").setAttribute("aria-label", `${say("more")}: ${title}`);
  part(".more").addEventListener("click", () => askWithItem(hit));
  const { id } = answer;
  for (const button of element.querySelectorAll(".verdict")) {
    button.hidden = !(about.feedback && isWithPicture());
    button.setAttribute("aria-label", `${say(button.value)}: ${title}`);
    button.addEventListener("click", () => {
      judging = judging.then(() => judge(id, hit, button)).catch(showError); // one by one: the last one counts
    });
  }
  part(".pick").checked = picked.has(hit.path);
  part(".pick").setAttribute("aria-label", `${say("compare")}: ${title}`);
  part(".pick").addEventListener("change", ({ target }) => {
    if (target.checked) picked.set(hit.path, hit);
    else picked.delete(hit.path);
    showPicked();
  });
  return element;
}

// Feedback

// The random number under which the server keeps what is judged in this browser.
function session() {
  let number = localStorage.getItem("imgsearch-session");
  if (!number) {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    number = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    localStorage.setItem("imgsearch-session", number);
  }
  return { "Imgsearch-Session": number };
}

async function judge(id, hit, button) {
  const verdict = button.getAttribute("aria-pressed") === "true" ? null : button.value;
  const headers = { ...session(), "Content-Type": "application/json" };
  const body = JSON.stringify({ answer: id, path: hit.path, verdict });
  await request("feedback", { method: "POST", headers, body });
  for (const each of button.parentElement.querySelectorAll(".verdict")) {
    each.setAttribute("aria-pressed", `${each.value === verdict}`);
  }
  showStatus(say(`judged_${verdict}`));
}

async function forget() {
  if (!confirm(say("forget_sure"))) return;
  const { forgotten } = await request("feedback/session", { method: "DELETE", headers: session() });
  for (const each of document.querySelectorAll(".verdict")) each.setAttribute("aria-pressed", "false");
  localStorage.removeItem("imgsearch-session");
  showStatus(say("forgotten", { count: forgotten }));
}

// Side by side

function showPicked() {
  byId("picked").hidden = !picked.size;
  byId("picked-count").textContent = say("picked", { count: picked.size });
}

function unpickAll() {
  picked.clear();
  for (const each of document.querySelectorAll(".pick")) each.checked = false;
  showPicked();
  byId("hits-heading").focus();
}

function row(head, cells, tag = "td") {
  const line = document.createElement("tr");
  const first = document.createElement("th");
  first.scope = "row";
  first.textContent = head;
  line.append(first);
  for (const content of cells) {
    const cell = document.createElement(tag);
    cell.dir = "auto"; // titles may be of any language
    if (tag === "th") cell.scope = "col";
    cell.append(content);
    line.append(cell);
  }
  return line;
}

function compare() {
  const hits = [...picked.values()];
  const images = hits.map((hit) => {
    const image = document.createElement("img");
    image.src = `${hit.url}/thumbnail`;
    image.alt = titleOf(hit);
    return image;
  });
  const of = (take) => hits.map((hit) => shown(take(hit) ?? ""));
  const columns = new Set(hits.flatMap((hit) => Object.keys(hit.metadata)));
  const rows = [
    row(say("picture_column"), images),
    row(say("score"), hits.map((hit) => hit.score.toFixed(2))),
    row(say("category"), of((hit) => hit.category)),
    row(say("product"), of((hit) => hit.product)),
    row(say("path"), of((hit) => hit.path)),
    ...Array.from(columns, (name) => row(name === "price" ? say("price") : name, of((hit) => hit.metadata[name]))),
  ];
  if (about.is_calibrated) {
    const probabilities = hits.map(({ probability: each }) => (each === undefined ? "" : percent.format(each)));
    rows.splice(2, 0, row(say("probability"), probabilities));
  }
  const table = byId("table").firstElementChild;
  table.tHead.replaceChildren(row(say("field"), hits.map(titleOf), "th"));
  table.tBodies[0].replaceChildren(...rows);
  byId("comparison").showModal();
}

// The form

function addOptions(select, options) {
  for (const [value, label] of options) select.add(new Option(label, value));
}

function showLimits() {
  const column = about.columns.find(({ name }) => name === byId("column").value);
  for (const end of ["low", "high"]) {
    const input = byId(end);
    input.value = "";
    input.type = column?.kind === "date" ? "date" : "number";
    input.step = "any";
    input.placeholder = column?.[end] === undefined ? "" : `${column[end]}`;
  }
}

function fillForm() {
  byId("about").textContent = say("about", { count: about.count });
  byId("words").hidden = !about.has_words;
  byId("feedback").hidden = !about.feedback;
  byId("range").hidden = !about.columns.length;
  const categories = about.categories.filter(({ name }) => name); // some items have none
  addOptions(byId("category"), categories.map(({ name, count }) => [name, `${name} (${whole.format(count)})`]));
  addOptions(byId("color"), about.colors.map((name) => [name, strings.colors[name] ?? name]));
  addOptions(byId("column"), about.columns.map(({ name }) => [name, name]));
  if (about.columns.some(({ name }) => name === "price")) byId("column").value = "price";
  showLimits();
  byId("filters").open = matchMedia("(min-width: 56rem)").matches;
}

function listen() {
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  for (const name of ["category", "color", "low", "high", "use-feedback"]) byId(name).addEventListener("change", search);
  byId("column").addEventListener("change", () => {
    const wasLimited = byId("low").value || byId("high").value;
    showLimits();
    if (wasLimited) search();
  });
  byId("reset").addEventListener("click", () => {
    byId("category").value = byId("color").value = "";
    showLimits();
    search();
  });
  for (const name of ["pick", "photograph"]) {
    byId(name).addEventListener("change", ({ target }) => {
      askWithPicture(target.files[0]);
      target.value = ""; // so that the same file can be chosen again
    });
    byId(name).addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return; // which would submit the form
      event.preventDefault();
      event.target.click();
    });
  }
  document.addEventListener("paste", ({ clipboardData }) => askWithPicture(clipboardData.files[0]));
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      byId("drop").classList.toggle("over", name === "dragover");
      if (name === "drop") askWithPicture(event.dataTransfer.files[0]);
    });
  }
  byId("stage").addEventListener("pointerdown", startDrag);
  byId("box").addEventListener("keydown", moveByKey);
  byId("mark").addEventListener("click", () => {
    const [width, height] = size();
    searchPart([width / 4, height / 4, width / 2, height / 2]);
  });
  byId("whole").addEventListener("click", () => searchPart(null));
  byId("remove").addEventListener("click", removePicture);
  byId("forget").addEventListener("click", () => forget().catch(showError));
  byId("compare").addEventListener("click", compare);
  byId("unpick").addEventListener("click", unpickAll);
  byId("close").addEventListener("click", () => byId("comparison").close());
}

document.documentElement.lang = LANGUAGES[language];
fillWords(document);
try {
  about = await request("index");
  fillForm();
  listen();
  showStatus(say(about.has_words ? "start_words" : "start"));
} catch (error) {
  showError(error);
}
byId("unloaded").remove();
byId("main").hidden = false;
