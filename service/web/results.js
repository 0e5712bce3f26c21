/** The heatmaps of the last response and their display options. */

import { Card } from "./card.js";
import { MEANING as CONTRIBUTION } from "./contributions.js";
import { byId, offer } from "./dom.js";
import { Heatmap } from "./heatmap.js";
import { LargeView } from "./large.js";
import { LayersPanel } from "./layers.js";
import { showMethods } from "./methods.js";
import { describeSettings } from "./settings.js";
import { tell } from "./status.js";
import { Taking } from "./taking.js";
import { meaningOf, nameOfProbability } from "./words.js";

/**
 * @typedef {object} Run
 * @property {import("./api.js").Question} question
 * @property {any} answer
 */

// More heatmaps than these are folded: a page of forty is endless on a phone.
const MOST_UNFOLDED = 8;
const SHOWN_FOLDED = 6;

const HEADS =
  "Each heatmap is that of one attention head, by its number in the model, from 0; the similarity belongs to " +
  "the whole model, so it is the same beside all of them.";

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
    /** The heatmaps of each target, one for each run, in the order of the request. @type {Heatmap[][]} */
    this._rows = [];
    /** The cards that are not folded. @type {Card[]} */
    this._unfolded = [];
    this._folded = false;
    /** The share of each picture that shows the first of two compared heatmaps. */
    this._share = 0.5;
    /** @type {Run[]} */
    this._runs = [];
    this._large = new LargeView();
    this._layers = new LayersPanel();
    this._taking = new Taking(() => ({
      runs: this._runs,
      maps: this._ordered.flat(),
      look: this._look,
      colours,
    }));
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
    for (const name of ["order", "layout"]) {
      byId(name).addEventListener("change", () => this._arrange());
    }
    byId("fold").addEventListener("click", () => this._fold());
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
    const settings = describeSettings(runs.map(({ question }) => question.settings), infoOf);
    const columns = await Promise.all(
      runs.map(({ question, answer }, run) => {
        const [image] = answer.images;
        const model = infoOf(answer.model);
        return Promise.all(
          image.targets.map((/** @type {any} */ target, /** @type {number} */ index) => {
            const share = nameOfProbability(target, model, texts);
            // Heads are of one target.
            const named = { index: target.head === null ? index : 0, setting: settings[run], share };
            return Heatmap.read(target, image, question.picture.bitmap, named);
          }),
        );
      }),
    );
    this._runs = runs;
    this._rows = columns[0].map((_, index) => columns.map((column) => column[index]));
    this._folded = this._rows.length > MOST_UNFOLDED;
    this._answered = this.threshold;
    byId("laid-out").hidden = runs.length < 2;
    const meanings = [meaningOf(infoOf(runs[0].answer.model), texts > 0)];
    if (texts && runs[0].question.settings.words) meanings.push(CONTRIBUTION);
    if (runs[0].question.settings.heads) meanings.push(HEADS);
    byId("meaning").textContent = meanings.join(" ");
    showMethods(runs, infoOf);
    this._taking.reset();
    this._layers.reset(runs);
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
    for (const card of this._unfolded) card.draw(look, this._colours, this._share);
  }

  _offerOrders() {
    const { share, target } = this._rows[0][0];
    // All heads have the numbers of their target.
    byId("arrange").hidden = this._rows.length < 4 || target.head !== null;
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

  /** Show the cards in their order and layout, and fold the others away. */
  _arrange() {
    const shown = this._folded ? this._ordered.slice(0, SHOWN_FOLDED) : this._ordered;
    const compared = this._runs.length > 1;
    const beside = compared && byId("layout").value === "beside";
    const cards = beside ? shown.flat().map((map) => [map]) : shown;
    this._unfolded = cards.map((maps) => new Card(maps, this._divided, this._enlarge));
    byId("cards").className = ["cards", compared && (beside ? "beside" : "divided")].filter(Boolean).join(" ");
    byId("cards").replaceChildren(...this._unfolded.map(({ element }) => element));
    const fold = byId("fold");
    fold.hidden = this._rows.length <= MOST_UNFOLDED;
    fold.setAttribute("aria-expanded", String(!this._folded));
    fold.textContent = this._folded
      ? `Show all ${this._rows.length} (${this._rows.length - SHOWN_FOLDED} more)`
      : `Show the first ${SHOWN_FOLDED} alone`;
    this._draw();
  }

  /** Move the divider of all compared pictures, so that their prompts are compared too. */
  _divided = (/** @type {number} */ share) => {
    this._share = share;
    this._draw();
  };

  _enlarge = (/** @type {Card} */ card) => {
    this._large.open(card, this._look, this._colours, this._share, this._divided);
  };

  _fold() {
    const before = this._unfolded.length;
    this._folded = !this._folded;
    this._arrange();
    if (this._folded) byId("fold").scrollIntoView({ block: "nearest" });
    // Reading goes on where the page was folded.
    else this._unfolded[before].focus();
  }
}
