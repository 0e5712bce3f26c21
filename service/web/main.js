/** Entry point of the page: creates its parts and handles its events. */

import { Problem, ask, explain, hasKey, newRequestId, progressOf, useKey } from "./api.js";
import { Chips } from "./chips.js";
import { Colours } from "./colours.js";
import { byId } from "./dom.js";
import { listenForPictures, openExample, openPicture } from "./picture.js";
import { Results, nothingToLookFor, showGallery } from "./results.js";
import { SettingsForm } from "./settings.js";
import { Trouble, Waiting, tell } from "./status.js";

const FIRST_LOOK_MS = 300;
const NEXT_LOOK_MS = 700;

/** @type {import("./picture.js").Picture|null} */
let picture = null;
/** @type {AbortController|null} aborts the current request */
let asking = null;
/** @type {Results} */
let results;
/** The action to retry: start the page, or explain. */
let again = start;

const chips = new Chips(byId("chips"), byId("prompt"), (news) => {
  byId("chips-news").textContent = news;
});
const settings = new SettingsForm(describeModel);
const waiting = new Waiting();
const trouble = new Trouble(() => again());

/** Load the page's data; it is called again once a required key is given. */
async function start() {
  try {
    const [colours, examples] = await Promise.all([Colours.load(), ask("web/gallery/examples.json")]);
    results ??= new Results(colours, askForRegions);
    showGallery(examples, chooseExample);
    if (!picture) await takeExample(examples[0]);
    await loadModels();
    again = explainNow;
  } catch (error) {
    again = start;
    fail(error);
  }
}

async function loadModels() {
  const { models } = await ask("models");
  settings.offerModels(models);
  describeModel();
}

function describeModel() {
  byId("starter-note").hidden = !settings.asksStarter;
}

/** @param {any} example */
async function takeExample(example) {
  show(await openExample(example));
  byId("preview").alt = example.alt;
  chips.prompts = example.prompts;
}

/** @param {any} example */
async function chooseExample(example) {
  try {
    await takeExample(example);
  } catch (error) {
    fail(error);
    return;
  }
  explainAnew();
}

/** @param {File} file */
async function choose(file) {
  trouble.reset();
  try {
    show(await openPicture(file, file.name || "picture.png"));
  } catch (error) {
    trouble.show(error, false);
    return;
  }
  byId("preview").alt = "The chosen picture";
  tell(`${picture?.name} is chosen.`);
}

/** @param {import("./picture.js").Picture} chosen */
function show(chosen) {
  picture = chosen;
  const preview = byId("preview");
  if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(chosen.blob);
  preview.hidden = false;
  const { width, height } = chosen.bitmap;
  byId("picture-name").textContent = `${chosen.name}, ${width} × ${height}`;
}

/** Explain because a person asked to: forget earlier errors. */
function explainAnew() {
  trouble.reset();
  again = explainNow;
  return explainNow();
}

async function explainNow() {
  const prompts = chips.prompts;
  if (!picture || !prompts.length) {
    trouble.show(nothingToLookFor(picture ? "Say what to look for first." : "Choose a picture first."), false);
    byId(picture ? "prompt" : "file").focus();
    return;
  }
  const asked = picture;
  const questions = settings.read().map((setting) => ({ picture: asked, prompts, settings: setting }));
  asking?.abort();
  const current = new AbortController();
  asking = current;
  byId("key").hidden = true;
  results.hide();
  waiting.show();
  byId("waiting").scrollIntoView({ block: "nearest" });
  try {
    const ids = questions.map(newRequestId);
    const answers = questions.map((question, index) =>
      explain(question, outputOf(question.settings), { requestId: ids[index], signal: current.signal }),
    );
    follow(/** @type {string} */ (ids.at(-1)), current.signal);
    const answered = await Promise.all(answers);
    await results.show(questions.map((question, index) => ({ question, answer: answered[index] })));
    byId("gallery-heading").textContent = "Another example";
    tell(`Done: ${answered[0].images[0].targets.length} heatmaps.`);
    revealResult();
  } catch (error) {
    if (asking === current) fail(error, current);
  } finally {
    // One of two compared requests may still run after the other has failed.
    current.abort();
    if (asking === current) {
      asking = null;
      waiting.hide();
    }
  }
}

/** @param {import("./api.js").Settings} setting */
const outputOf = ({ normalize }) => ({
  heatmap: "png",
  overlay: false,
  normalize,
  regions_threshold: results.threshold,
});

/** Show the progress of a request until it is answered. @param {string} id @param {AbortSignal} signal */
async function follow(id, signal) {
  await pause(FIRST_LOOK_MS);
  while (!signal.aborted) {
    try {
      const progress = await progressOf(id, signal);
      if (progress.stage !== "unknown" && !signal.aborted) waiting.update(progress);
    } catch {
      // The outcome of the request itself is shown instead.
      return;
    }
    await pause(NEXT_LOOK_MS);
  }
}

/** @param {number} milliseconds */
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Scroll to the result, which is below the form on a narrow page. */
function revealResult() {
  const result = byId("result");
  if (result.getBoundingClientRect().top > innerHeight * 0.7) result.scrollIntoView();
}

async function askForRegions() {
  const { runs, threshold } = results;
  const output = { heatmap: "none", overlay: false, regions_threshold: threshold };
  try {
    const answers = await Promise.all(runs.map(({ question }) => explain(question, output)));
    if (runs === results.runs && threshold === results.threshold) results.showRegions(answers);
  } catch (error) {
    fail(error);
  }
}

/** @param {unknown} error @param {AbortController} [request] */
function fail(error, request) {
  if (request?.signal.aborted) return;
  if (error instanceof Problem && [401, 403].includes(error.status)) {
    askForKey(error);
    return;
  }
  trouble.show(error);
}

/** @param {Problem} error */
function askForKey(error) {
  const wrong = byId("key-wrong");
  wrong.textContent = `The key you gave does not open this. ${error.message}`;
  wrong.hidden = !hasKey();
  byId("key").hidden = false;
  byId("key-value").focus();
  tell(hasKey() ? wrong.textContent : "This server asks for a key.");
}

byId("ask").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  explainAnew();
});
byId("key").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  useKey(byId("key-value").value.trim());
  byId("key").hidden = true;
  again();
});
byId("cancel").addEventListener("click", () => {
  asking?.abort();
  tell("Cancelled.");
  byId("explain").focus();
});
listenForPictures(byId("file"), byId("drop"), choose);

start();
