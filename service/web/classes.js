/** Classes of an image model as chips, found by a search among all of them. */

import { ask } from "./api.js";
import { byId, make } from "./dom.js";
import { dotOf } from "./hues.js";
import { counted } from "./words.js";

const MOST_OPTIONS = 50;
const TYPING_MS = 150;

/**
 * @typedef {object} ModelClass
 * @property {number} index
 * @property {string|null} label
 */

/** @param {ModelClass} each */
const nameOf = ({ index, label }) => label ?? `class ${index}`;

export class ClassPicker {
  /**
   * @param {(news: string) => void} tell
   * @param {(error: unknown) => void} failed
   */
  constructor(tell, failed) {
    this._tell = tell;
    this._failed = failed;
    this._input = byId("class-search");
    this._list = byId("class-options");
    /** Id of the model whose classes are offered. */
    this.model = "";
    /** The chosen classes of each model, by its id. @type {Map<string, ModelClass[]>} */
    this._chosen = new Map();
    /** @type {ModelClass[]} */
    this._options = [];
    this._active = -1;
    /** @type {AbortController|null} */
    this._searching = null;
    /** @type {number|undefined} */
    this._timer = undefined;
    /** The choice by Enter in progress: each one waits for the one before. */
    this._choosing = Promise.resolve();
    this._input.addEventListener("input", () => this._searchSoon());
    this._input.addEventListener("click", () => this._open());
    this._input.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this._typed(event));
    this._input.addEventListener("blur", () => this._close());
    // A press must not take the focus from the field, which would close the list before the click.
    this._list.addEventListener("pointerdown", (/** @type {Event} */ event) => event.preventDefault());
  }

  /** Offer the classes of a model. @param {any} model its entry of /models */
  offer(model) {
    const { id, classes } = model;
    if (id === this.model) return;
    this.model = id;
    this._input.value = "";
    this._input.hidden = !classes;
    this._close();
    byId("class-help").textContent = classes
      ? `This model is asked about its own ${counted(classes, "class", "classes")}, not about words. Type a name or an index.`
      : "This model has neither a text tower nor a classifier, so this page cannot ask it. The API can, by images and embeddings.";
    this._render();
  }

  /** The chosen classes. */
  get chosen() {
    return this._chosen.get(this.model) ?? [];
  }

  /** Text in the field that is not a chosen class. */
  get pending() {
    return this._input.value.trim();
  }

  /** Wait for a choice by Enter that is in progress. */
  settled() {
    return this._choosing;
  }

  clear() {
    this._chosen.delete(this.model);
    this._render();
  }

  focus() {
    this._input.focus();
  }

  /** @param {KeyboardEvent} event */
  async _typed(event) {
    if (event.isComposing) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (this._list.hidden) await this._open();
      this._move(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Enter" && (this.pending || this._active >= 0)) {
      event.preventDefault();
      // The list may be of an earlier text while somebody types fast.
      if (this._active < 0) this._choosing = this._choosing.then(() => this._chooseFirst());
      else this._toggle(this._options[this._active], this._input.value);
    } else if (event.key === "Escape") {
      this._close();
    } else if (event.key === "Backspace" && !this._input.value && this.chosen.length) {
      this._remove(this.chosen.length - 1);
    }
  }

  _searchSoon() {
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this._open(), TYPING_MS);
  }

  /** Fetch and show the classes that match the text in the field. */
  async _open() {
    clearTimeout(this._timer);
    this._searching?.abort();
    const searching = new AbortController();
    this._searching = searching;
    try {
      const { found, classes } = await this._find(this.pending, searching.signal);
      if (searching.signal.aborted || document.activeElement !== this._input) return;
      this._options = classes;
      this._showOptions(found);
    } catch (error) {
      if (!searching.signal.aborted) this._failed(error);
    }
  }

  /** Choose the first class that matches the text in the field. Text typed meanwhile stays. */
  async _chooseFirst() {
    clearTimeout(this._timer);
    const { model } = this;
    const typed = this._input.value;
    if (!typed.trim()) return;
    try {
      const { classes } = await this._find(typed.trim());
      if (model !== this.model) return;
      if (classes.length) this._toggle(classes[0], typed);
      else await this._open();
    } catch (error) {
      this._failed(error);
    }
  }

  /**
   * @param {string} search
   * @param {AbortSignal} [signal]
   * @returns {Promise<{found: number, classes: ModelClass[]}>}
   */
  _find(search, signal) {
    const query = new URLSearchParams({ search, limit: String(MOST_OPTIONS) });
    return ask(`models/${encodeURIComponent(this.model)}/classes?${query}`, { signal });
  }

  /** @param {number} found */
  _showOptions(found) {
    const chosen = new Set(this.chosen.map(({ index }) => index));
    this._list.replaceChildren(
      ...this._options.map((each, place) => {
        const option = make("li", { id: `class-option-${place}` }, nameOf(each));
        if (each.label !== null) option.append(" ", make("span", {}, String(each.index)));
        option.setAttribute("role", "option");
        option.setAttribute("aria-selected", String(chosen.has(each.index)));
        option.addEventListener("click", () => this._toggle(each, this._input.value));
        return option;
      }),
    );
    this._list.hidden = !this._options.length;
    this._input.setAttribute("aria-expanded", String(!this._list.hidden));
    this._activate(-1);
    const shown = this._options.length;
    byId("class-found").textContent = !found
      ? "No class matches."
      : found > shown
        ? `${shown} of ${found} shown: type more to narrow them down.`
        : `${counted(found, "class", "classes")} found.`;
  }

  _close() {
    clearTimeout(this._timer);
    this._searching?.abort();
    this._options = [];
    this._activate(-1);
    this._list.replaceChildren();
    this._list.hidden = true;
    this._input.setAttribute("aria-expanded", "false");
    byId("class-found").textContent = "";
  }

  /** @param {number} by */
  _move(by) {
    const count = this._options.length;
    if (!count) return;
    const from = this._active < 0 && by < 0 ? 0 : this._active;
    this._activate((from + by + count) % count);
  }

  /** @param {number} place of an option, or -1 */
  _activate(place) {
    this._list.children[this._active]?.classList.remove("active");
    this._active = place;
    const option = this._list.children[place];
    if (!option) {
      this._input.removeAttribute("aria-activedescendant");
      return;
    }
    option.classList.add("active");
    option.scrollIntoView({ block: "nearest" });
    this._input.setAttribute("aria-activedescendant", option.id);
  }

  /**
   * Choose a class, or no longer, and take its text out of the field.
   * @param {ModelClass} option
   * @param {string} typed
   */
  _toggle(option, typed) {
    const known = this.chosen.findIndex(({ index }) => index === option.index);
    const text = this._input.value;
    this._input.value = text.startsWith(typed) ? text.slice(typed.length) : text;
    this._close();
    if (this._input.value) this._searchSoon();
    if (known >= 0) {
      this._remove(known);
      return;
    }
    this._chosen.set(this.model, [...this.chosen, option]);
    this._render();
    this._tell(`Added ${nameOf(option)}.`);
  }

  _render() {
    const chosen = this.chosen;
    byId("class-chips").replaceChildren(
      ...chosen.map((each, place) => {
        const remove = make("button", { type: "button", className: "chip-remove", title: "Remove" }, "×");
        remove.setAttribute("aria-label", `Remove ${nameOf(each)}`);
        remove.addEventListener("click", () => {
          this._remove(place);
          const next = byId("class-chips").children[Math.min(place, this.chosen.length - 1)];
          /** @type {HTMLElement} */ (next?.querySelector("button") ?? this._input).focus();
        });
        const name = make("span", { className: "chip-text" }, nameOf(each));
        return make("li", { className: "chip" }, dotOf(place), name, remove);
      }),
    );
    byId("class-chips").hidden = !chosen.length;
    this._input.placeholder = chosen.length ? "Add another" : "Search the classes";
  }

  /** @param {number} place */
  _remove(place) {
    const rest = [...this.chosen];
    const [removed] = rest.splice(place, 1);
    this._chosen.set(this.model, rest);
    this._render();
    this._tell(`Removed ${nameOf(removed)}.`);
  }
}
