/** Heatmaps and requests to take away: a picture, JSON, a command or a program. */

import { byId, save } from "./dom.js";
import { sheetOf } from "./sheet.js";
import { asCurl, asPython } from "./snippets.js";

/**
 * @typedef {object} Shown
 * @property {import("./results.js").Run[]} runs
 * @property {import("./heatmap.js").Heatmap[]} maps all of them, those of a target one after another
 * @property {import("./heatmap.js").Look & {threshold: number}} look
 * @property {import("./colours.js").Colours} colours
 */

export class Taking {
  /** @param {() => Shown} shown */
  constructor(shown) {
    this._shown = shown;
    byId("save-png").addEventListener("click", () => this._savePng());
    byId("save-json").addEventListener("click", () => this._saveJson());
    byId("copy-curl").addEventListener("click", () => this._copy("curl", asCurl));
    byId("copy-python").addEventListener("click", () => this._copy("Python", asPython));
  }

  /** Forget the news about an earlier response. */
  reset() {
    byId("snippet").hidden = true;
    byId("taken").textContent = "";
  }

  /** @param {Shown} shown */
  _nameOf({ runs }) {
    return runs[0].question.picture.name.replace(/\.[^.]*$/, "") || "picture";
  }

  async _savePng() {
    const shown = this._shown();
    const { maps, runs, look, colours } = shown;
    const seen = getComputedStyle(byId("cards")).gridTemplateColumns.split(" ").length;
    // One column of forty heatmaps, as on a phone, is not a picture that anybody can use.
    const columns = Math.max(seen, runs.length * Math.ceil(Math.sqrt(maps.length / 12)));
    // Compared heatmaps are side by side: a file has no divider to move.
    const paired = columns - (columns % runs.length);
    const sheet = await sheetOf(maps, Math.min(paired, maps.length), look, colours);
    save(sheet, `${this._nameOf(shown)}-heatmaps.png`);
  }

  _saveJson() {
    const shown = this._shown();
    const answers = shown.runs.map(({ answer }) => answer);
    const content = JSON.stringify(answers.length > 1 ? answers : answers[0], null, 2);
    save(new Blob([content], { type: "application/json" }), `${this._nameOf(shown)}-heatmaps.json`);
  }

  /** @param {string} language @param {typeof asCurl} write */
  async _copy(language, write) {
    const { runs, look } = this._shown();
    const text = write(runs[0].question, look);
    const field = byId("snippet-text");
    field.value = text;
    field.rows = text.split("\n").length;
    byId("snippet").hidden = false;
    const copied = await copy(text, field);
    const which = runs.length > 1 ? "Copied the first setting" : "Copied";
    byId("taken").textContent = copied
      ? `${which} as ${language}.`
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
