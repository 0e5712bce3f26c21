/** One target: its heatmap, or two compared on one picture, with the model's numbers. */

import { make } from "./dom.js";
import { dotOf } from "./hues.js";
import { wordsCaption } from "./contributions.js";
import { trustCaption } from "./trust.js";
import { percent, placeOf } from "./words.js";
import { View } from "./view.js";

export class Card {
  /**
   * @param {import("./heatmap.js").Heatmap[]} maps one, or two to compare on one picture
   * @param {(share: number) => void} divided called when the divider between two maps is moved
   * @param {(card: Card) => void} enlarge called when a larger view is asked for
   */
  constructor(maps, divided, enlarge) {
    this.maps = maps;
    this._view = new View(maps, maps[0].mapSize, divided);
    const { reader } = this._view;
    reader.setAttribute("aria-label", `${reader.getAttribute("aria-label")}, Enter shows it large`);
    reader.addEventListener("click", () => enlarge(this));
    reader.addEventListener("keydown", (event) => {
      if (event.key === "Enter") enlarge(this);
    });
    const button = make("button", { type: "button", className: "enlarge", title: "Large view" });
    const setting = maps.length > 1 ? "" : maps[0].setting;
    button.setAttribute("aria-label", ["Large view of", maps[0].prompt, setting && `with ${setting}`].join(" ").trim());
    button.addEventListener("click", () => enlarge(this));
    this._view.element.append(button);
    this.element = make("figure", { className: "card" }, this._view.element, this._caption());
  }

  /** @param {import("./heatmap.js").Look} look @param {import("./colours.js").Colours} colours @param {number} share */
  draw(look, colours, share) {
    this._view.draw(look, colours, share);
  }

  /** Focus the heatmap without scrolling. */
  focus() {
    this._view.focus();
  }

  _caption() {
    const caption = make("figcaption");
    const [map] = this.maps;
    if (this.maps.length > 1) {
      caption.append(make("h3", {}, dotOf(map.index), map.prompt), this._comparison());
      caption.append(...this._perSetting(wordsCaption), ...this._perSetting(trustCaption));
      return caption;
    }
    if (map.setting) caption.append(make("p", { className: "setting" }, map.setting));
    caption.append(make("h3", {}, dotOf(map.index), map.prompt));
    const facts = make("dl", { className: "facts" });
    for (const [name, value] of factsOf(map)) {
      facts.append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
    }
    if (map.share) {
      const bar = make("span", { className: "share" }, make("span"));
      /** @type {HTMLElement} */ (bar.firstChild).style.width = `${100 * map.target.probability}%`;
      caption.append(bar);
    }
    caption.append(facts, ...wordsCaption(map.target), ...trustCaption(map.target));
    return caption;
  }

  /**
   * Captions of both maps, below the names of their settings; one alone if they say the same.
   * @param {(target: any) => HTMLElement[]} captionOf
   */
  _perSetting(captionOf) {
    const captions = this.maps.map(({ target }) => captionOf(target));
    const [first, second] = captions.map((parts) => parts.map(({ outerHTML }) => outerHTML).join(""));
    if (first === second) return captions[0];
    return this.maps.flatMap(({ setting }, index) =>
      captions[index].length ? [make("p", { className: "setting" }, setting), ...captions[index]] : [],
    );
  }

  /** The numbers of two maps as a table. */
  _comparison() {
    const heads = this.maps.map(({ setting }) => make("th", { scope: "col" }, setting));
    const columns = this.maps.map((map) => new Map(factsOf(map)));
    // Two models may name their probabilities differently.
    const names = new Set(columns.flatMap((facts) => [...facts.keys()]));
    const rows = [...names].map((name) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, name),
        ...columns.map((facts) => make("td", {}, facts.get(name) ?? "–")),
      ),
    );
    return make(
      "table",
      { className: "comparison" },
      make("thead", {}, make("tr", {}, make("td"), ...heads)),
      make("tbody", {}, ...rows),
    );
  }
}

/** @param {import("./heatmap.js").Heatmap} map @returns {[string, string][]} names and values to read */
function factsOf({ share, target, peak, size }) {
  return [
    ...(share ? [/** @type {[string, string]} */ ([share, percent(target.probability)])] : []),
    ["Similarity", target.similarity.toFixed(2)],
    ...(typeof target.presence === "number"
      ? [/** @type {[string, string]} */ (["Chance it is there", percent(target.presence)])]
      : []),
    ["Peak", placeOf(peak, size)],
  ];
}
