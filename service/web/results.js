/** The heatmaps of the last response, their display options and downloads. */

import { Card } from "./card.js";
import { byId, make, offer, save } from "./dom.js";
import { SettingsForm } from "./settings.js";
import { sheetOf } from "./sheet.js";
import { asCurl, asPython } from "./snippets.js";
import { tell } from "./status.js";
import { meaningOf, nameOfProbability } from "./words.js";

/**
 * @typedef {object} Run
 * @property {import("./api.js").Question} question
 * @property {any} answer
 */

// More heatmaps than these are folded: a page of forty is endless on a phone.
const MOST_UNFOLDED = 8;
const SHOWN_FOLDED = 6;

/** @typedef {(left: any, right: any) => number} Order of two targets of a response */

/** @type {Record<string, Order|null>} */
const ORDERS = {
  asked: null,
  similarity: (left, right) => right.similarity - left.similarity,
  probability: (left, right) => (right.probability ?? -1) - (left.probability ?? -1),
  name: (left, right) => left.target.localeCompare(right.target),
};

export class Results {
  /**
   * @param {import("./colours.js").Colours} colours
   * @param {() => void} thresholdChanged
   */
  constructor(colours, thresholdChanged) {
    this._colours = colours;
    /** The cards of each target, one for each run, in the order of the request. @type {Card[][]} */
    this._rows = [];
    /** The cards that are not folded. @type {Card[]} */
    this._unfolded = [];
    this._folded = false;
    /** @type {Run[]} */
    this._runs = [];
    offer(
      byId("colormap"),
      colours.names.map((name) => [name, name[0].toUpperCase() + name.slice(1)]),
    );
    byId("colormap").value = colours.default;
    byId("opacity").value = String(100 * colours.opacity);
    for (const name of ["opacity", "colormap", "regions", "threshold"]) {
      byId(name).addEventListener("input", () => this._draw());
    }
    for (const name of ["regions", "threshold"]) {
      byId(name).addEventListener("change", () => this._looksForRegions() && thresholdChanged());
    }
    addEventListener("resize", () => this._draw());
    byId("order").addEventListener("change", () => this._arrange());
    byId("fold").addEventListener("click", () => this._fold());
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

  /**
   * @param {Run[]} runs one, or two to compare
   * @param {(model: string) => any} infoOf returns the entry of /models of a model
   */
  async show(runs, infoOf) {
    const texts = runs[0].question.prompts.length;
    const columns = await Promise.all(
      runs.map(({ question, answer }) => {
        const setting = runs.length > 1 ? SettingsForm.describe(question.settings) : "";
        const [image] = answer.images;
        const model = infoOf(answer.model);
        return Promise.all(
          image.targets.map((/** @type {any} */ target) => {
            const share = nameOfProbability(target, model, texts);
            return Card.make(target, image, question.picture.bitmap, setting, share, tell);
          }),
        );
      }),
    );
    this._runs = runs;
    // Compared heatmaps are side by side.
    this._rows = columns[0].map((_, index) => columns.map((column) => column[index]));
    this._folded = this._rows.length > MOST_UNFOLDED;
    this._answered = this.threshold;
    byId("cards").className = runs.length > 1 ? "cards compared" : "cards";
    byId("meaning").textContent = meaningOf(infoOf(runs[0].answer.model), texts > 0);
    byId("snippet").hidden = true;
    byId("taken").textContent = "";
    byId("output").hidden = false;
    this._offerOrders();
    this._arrange();
  }

  hide() {
    byId("output").hidden = true;
  }

  /** Show new regions of the same maps. @param {any[]} answers one for each run */
  showRegions(answers) {
    this._answered = this.threshold;
    answers.forEach((answer, run) => {
      answer.images[0].targets.forEach((/** @type {any} */ target, /** @type {number} */ index) => {
        this._rows[index][run].regions = target.regions;
      });
    });
    this._draw();
    const found = this._rows.flat().reduce((sum, { target }) => sum + target.regions.length, 0);
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
    return byId("regions").checked && this._answered !== this.threshold;
  }

  _draw() {
    const look = this._look;
    byId("opacity-value").textContent = `${byId("opacity").value} %`;
    byId("threshold-value").textContent = `${byId("threshold").value} %`;
    byId("threshold").disabled = !look.regions;
    this._colours.drawScale(byId("scale"), look.colormap);
    for (const card of this._unfolded) card.draw(look, this._colours);
  }

  _offerOrders() {
    byId("arrange").hidden = this._rows.length < 4;
    const { share } = this._rows[0][0];
    offer(byId("order"), [
      ["asked", "As asked"],
      ["similarity", "Similarity"],
      ...(share ? [/** @type {[string, string]} */ (["probability", share.split(" ")[0]])] : []),
      ["name", "Name"],
    ]);
  }

  /** The rows in the chosen order, which is that of the first run. */
  get _ordered() {
    const order = ORDERS[byId("order").value];
    if (!order) return this._rows;
    return this._rows.toSorted(([left], [right]) => order(left.target, right.target));
  }

  /** Show the cards in their order, and fold the others away. */
  _arrange() {
    const shown = this._folded ? this._ordered.slice(0, SHOWN_FOLDED) : this._ordered;
    this._unfolded = shown.flat();
    byId("cards").replaceChildren(...this._unfolded.map(({ element }) => element));
    const fold = byId("fold");
    fold.hidden = this._rows.length <= MOST_UNFOLDED;
    fold.setAttribute("aria-expanded", String(!this._folded));
    fold.textContent = this._folded
      ? `Show all ${this._rows.length} (${this._rows.length - SHOWN_FOLDED} more)`
      : `Show the first ${SHOWN_FOLDED} alone`;
    this._draw();
  }

  _fold() {
    const before = this._unfolded.length;
    this._folded = !this._folded;
    this._arrange();
    if (this._folded) byId("fold").scrollIntoView({ block: "nearest" });
    // Reading goes on where the page was folded.
    else this._unfolded[before].focus();
  }

  get _name() {
    return this._runs[0].question.picture.name.replace(/\.[^.]*$/, "") || "picture";
  }

  async _savePng() {
    const shown = getComputedStyle(byId("cards")).gridTemplateColumns.split(" ").length;
    const cards = this._ordered.flat();
    for (const card of cards) card.draw(this._look, this._colours);
    // One column of forty heatmaps, as on a phone, is not a picture that anybody can use.
    const columns = Math.max(shown, this._runs.length * Math.ceil(Math.sqrt(cards.length / 12)));
    save(await sheetOf(cards, Math.min(columns, cards.length)), `${this._name}-heatmaps.png`);
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
    if (!copied) byId("snippet").scrollIntoView({ block: "nearest" });
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
