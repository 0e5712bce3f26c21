/** The heatmaps of the last response, their display options and downloads. */

import { Problem } from "./api.js";
import { Card } from "./card.js";
import { byId, make, offer, save } from "./dom.js";
import { SettingsForm } from "./settings.js";
import { sheetOf } from "./sheet.js";
import { asCurl, asPython } from "./snippets.js";
import { tell } from "./status.js";

/**
 * @typedef {object} Run
 * @property {import("./api.js").Question} question
 * @property {any} answer
 */

const MEANING =
  "Similarity is the cosine between picture and prompt, as the model serves it. Probability is how the " +
  "model divides its answer between these prompts alone; it does not say that any of them is there. " +
  "The ring marks the peak.";

export class Results {
  /**
   * @param {import("./colours.js").Colours} colours
   * @param {() => void} thresholdChanged
   */
  constructor(colours, thresholdChanged) {
    this._colours = colours;
    /** @type {Card[]} */
    this._cards = [];
    /** @type {Run[]} */
    this._runs = [];
    offer(
      byId("colormap"),
      colours.names.map((name) => [name, name[0].toUpperCase() + name.slice(1)]),
    );
    byId("colormap").value = colours.default;
    byId("opacity").value = String(100 * colours.opacity);
    byId("meaning").textContent = MEANING;
    for (const name of ["opacity", "colormap", "regions", "threshold"]) {
      byId(name).addEventListener("input", () => this._draw());
    }
    for (const name of ["regions", "threshold"]) {
      byId(name).addEventListener("change", () => this._looksForRegions() && thresholdChanged());
    }
    addEventListener("resize", () => this._draw());
    byId("save-png").addEventListener("click", () => this._savePng());
    byId("save-json").addEventListener("click", () => this._saveJson());
    byId("copy-curl").addEventListener("click", () => this._copy("curl", asCurl));
    byId("copy-python").addEventListener("click", () => this._copy("Python", asPython));
  }

  /** Threshold of regions as a share of the peak. */
  get threshold() {
    return Number(byId("threshold").value) / 100;
  }

  get runs() {
    return this._runs;
  }

  /** @param {Run[]} runs one, or two to compare */
  async show(runs) {
    const cards = await Promise.all(
      runs.map(({ question, answer }) => {
        const setting = runs.length > 1 ? SettingsForm.describe(question.settings) : "";
        const [image] = answer.images;
        return Promise.all(
          image.targets.map((/** @type {any} */ target) =>
            Card.make(target, image, question.picture.bitmap, setting, tell),
          ),
        );
      }),
    );
    this._runs = runs;
    // Compared heatmaps are side by side.
    this._cards = cards[0].flatMap((_, index) => cards.map((column) => column[index]));
    this._shown = this.threshold;
    const grid = byId("cards");
    grid.replaceChildren(...this._cards.map(({ element }) => element));
    grid.className = runs.length > 1 ? "cards compared" : "cards";
    byId("snippet").hidden = true;
    byId("taken").textContent = "";
    byId("output").hidden = false;
    this._draw();
  }

  hide() {
    byId("output").hidden = true;
  }

  /** Show new regions of the same maps. @param {any[]} answers one for each run */
  showRegions(answers) {
    this._shown = this.threshold;
    answers.forEach((answer, run) => {
      answer.images[0].targets.forEach((/** @type {any} */ target, /** @type {number} */ index) => {
        this._cards[index * answers.length + run].regions = target.regions;
      });
    });
    this._draw();
    const found = this._cards.reduce((sum, { target }) => sum + target.regions.length, 0);
    tell(`${found} regions above ${byId("threshold-value").textContent}`);
  }

  get _look() {
    return {
      opacity: Number(byId("opacity").value) / 100,
      colormap: byId("colormap").value,
      regions: byId("regions").checked,
      threshold: this.threshold,
    };
  }

  _looksForRegions() {
    return byId("regions").checked && this._shown !== this.threshold;
  }

  _draw() {
    const look = this._look;
    byId("opacity-value").textContent = `${byId("opacity").value} %`;
    byId("threshold-value").textContent = `${byId("threshold").value} %`;
    byId("threshold").disabled = !look.regions;
    this._colours.drawScale(byId("scale"), look.colormap);
    for (const card of this._cards) card.draw(look, this._colours);
  }

  get _name() {
    return this._runs[0].question.picture.name.replace(/\.[^.]*$/, "") || "picture";
  }

  async _savePng() {
    const columns = getComputedStyle(byId("cards")).gridTemplateColumns.split(" ").length;
    save(await sheetOf(this._cards, Math.min(columns, this._cards.length)), `${this._name}-heatmaps.png`);
  }

  _saveJson() {
    const answers = this._runs.map(({ answer }) => answer);
    const content = JSON.stringify(answers.length > 1 ? answers : answers[0], null, 2);
    save(new Blob([content], { type: "application/json" }), `${this._name}-heatmaps.json`);
  }

  /** @param {string} language @param {typeof asCurl} write */
  async _copy(language, write) {
    const text = write(this._runs[0].question, this._look);
    const field = byId("snippet-text");
    field.value = text;
    field.rows = text.split("\n").length;
    byId("snippet").hidden = false;
    const copied = await copy(text, field);
    byId("taken").textContent = copied
      ? `Copied as ${language}.`
      : `Your browser does not let the page copy: take it from below.`;
  }
}

/** @param {string} text @param {HTMLTextAreaElement} field @returns {Promise<boolean>} */
async function copy(text, field) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // The clipboard API needs https or localhost; the older way works everywhere.
    const focused = /** @type {HTMLElement|null} */ (document.activeElement);
    field.select();
    const copied = document.execCommand("copy");
    focused?.focus();
    return copied;
  }
}

/** Show the gallery with titles and credits. @param {any[]} examples @param {(example: any) => void} chosen */
export function showGallery(examples, chosen) {
  byId("gallery").replaceChildren(
    ...examples.map((example) => {
      const button = make(
        "button",
        { type: "button", className: "example" },
        make("img", {
          src: `web/gallery/${example.file}`,
          alt: example.alt,
          width: 720,
          height: 480,
        }),
        make("span", { className: "example-title" }, example.title),
        make("span", { className: "quiet" }, example.prompts.join(", ")),
      );
      button.addEventListener("click", () => chosen(example));
      return make("li", {}, button);
    }),
  );
  byId("credits").replaceChildren(
    ...examples
      .filter(({ credit }) => credit)
      .map(({ title, credit }) => make("li", {}, `${title}. ${credit}`)),
  );
}

/** @param {string} detail */
export const nothingToLookFor = (detail) =>
  new Problem({ title: "There is nothing to explain yet", detail, error: "incomplete" });
