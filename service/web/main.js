/** Entry point of the page: creates its parts and handles its events. */

import { Problem, ask, explain, hasKey, newRequestId, progressOf, useKey } from "./api.js";
import { PictureChooser } from "./chooser.js";
import { Colours } from "./colours.js";
import { byId } from "./dom.js";
import { showGallery } from "./gallery.js";
import { QuestionForm } from "./question.js";
import { Results } from "./results.js";
import { SettingsForm } from "./settings.js";
import { Trouble, Waiting, tell } from "./status.js";

const FIRST_LOOK_MS = 300;
const NEXT_LOOK_MS = 700;
// Heatmaps of many prompts are smaller, for the memory of a phone.
const MANY_TARGETS = 12;
const SIDE_OF_MANY = 512;

/** @type {AbortController|null} aborts the current request */
let asking = null;
/** @type {Results} */
let results;
/** The action to retry: start the page, or explain. */
let again = start;

const asked = new QuestionForm(fail);
const chooser = new PictureChooser(() => {
  trouble.reset();
  return asked.pictureChanged();
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
    if (!(await chooser.current())) await takeExample(examples[0]);
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
  asked.describe(settings.infoOf(settings.read()[0].model));
}

/** @param {any} example */
async function takeExample(example) {
  if (await chooser.take(example)) asked.showExample(example.prompts);
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

/** Explain because a person asked to: forget earlier errors. */
function explainAnew() {
  trouble.reset();
  again = explainNow;
  return explainNow();
}

/**
 * Return the questions of the form; null after saying what is missing, where it is chosen.
 * @returns {Promise<import("./api.js").Question[]|null>}
 */
async function readForm() {
  const picture = await chooser.current();
  if (!picture) {
    chooser.askForOne();
    return null;
  }
  await asked.settled();
  const questions = [];
  for (const setting of settings.read()) {
    const question = asked.read(settings.infoOf(setting.model), setting.heads);
    if (!question) return null;
    questions.push({ picture, ...question, settings: setting });
  }
  return questions;
}

async function explainNow() {
  let questions;
  try {
    questions = await readForm();
  } catch (error) {
    trouble.show(error, false);
    return;
  }
  if (!questions) return;
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
      explain(question, outputOf(question), { requestId: ids[index], signal: current.signal }),
    );
    follow(/** @type {string} */ (ids.at(-1)), current.signal);
    const answered = await Promise.all(answers);
    await learnModels(questions);
    const runs = questions.map((question, index) => ({ question, answer: answered[index] }));
    await results.show(runs, (model) => settings.infoOf(model));
    byId("gallery-heading").textContent = "Another example";
    tell(`Done: ${answered[0].images[0].targets.length} heatmaps.`);
    revealResult();
  } catch (error) {
    if (asking === current) {
      fail(error, current);
      // A model that is loaded now may turn out to be asked about classes.
      await learnModels(questions).catch(() => {});
    }
  } finally {
    // One of two compared requests may still run after the other has failed.
    current.abort();
    if (asking === current) {
      asking = null;
      waiting.hide();
    }
  }
}

/** @param {import("./api.js").Question} question */
const outputOf = ({ prompts, targets, settings: { heads, normalize, trust } }) => ({
  heatmap: "png",
  overlay: false,
  normalize,
  regions_threshold: results.threshold,
  ...(trust && { trust }),
  // Only the answer tells the number of heads, which is large in large models.
  ...((heads || prompts.length + targets.length > MANY_TARGETS) && { max_side: SIDE_OF_MANY }),
});

/** Load the models again if one of the questions has loaded its model. @param {import("./api.js").Question[]} questions */
async function learnModels(questions) {
  const unknown = questions.some(({ settings: { model } }) => settings.infoOf(model)?.classes === null);
  if (unknown) await loadModels();
}

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

start();
