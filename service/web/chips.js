/** Prompts as chips that can be added, edited and removed, also by keyboard. */

import { make } from "./dom.js";
import { dotOf } from "./hues.js";

export class Chips {
  /**
   * @param {HTMLUListElement} list
   * @param {HTMLInputElement} input
   * @param {(news: string) => void} tell
   */
  constructor(list, input, tell) {
    this._list = list;
    this._input = input;
    this._tell = tell;
    /** @type {string[]} */
    this._prompts = [];
    /** The prompts that came with an example. @type {Set<string>} */
    this._examples = new Set();
    input.addEventListener("keydown", (event) => this._typed(event));
    input.addEventListener("input", () => {
      // Only a pasted list has commas: a typed comma is handled as a key.
      if (input.value.includes(",")) this.commit();
    });
  }

  /** The prompts, including the text that is still in the field. */
  get prompts() {
    this.commit();
    return [...this._prompts];
  }

  /** Show the prompts of an example in place of all others. @param {string[]} prompts */
  showExample(prompts) {
    this._prompts = [...prompts];
    this._examples = new Set(prompts);
    this._input.value = "";
    this._render();
  }

  /** Remove the prompts of the example, which are about its picture. @returns {string[]} the others */
  dropExample() {
    this.commit();
    this._prompts = this._prompts.filter((prompt) => !this._examples.has(prompt));
    this._examples.clear();
    this._render();
    return [...this._prompts];
  }

  clear() {
    this._prompts = [];
    this._render();
  }

  /** Turn the text in the field into chips. */
  commit() {
    const added = [];
    for (const part of this._input.value.split(",")) {
      const prompt = part.trim();
      if (prompt && !this._prompts.includes(prompt)) added.push(prompt);
    }
    this._input.value = "";
    if (!added.length) return;
    this._prompts.push(...added);
    this._render();
    this._tell(`Added ${added.join(", ")}.`);
  }

  /** @param {KeyboardEvent} event */
  _typed(event) {
    if (event.isComposing) return;
    if (event.key === ",") {
      event.preventDefault();
      this.commit();
    } else if (event.key === "Enter" && this._input.value.trim()) {
      event.preventDefault();
      this.commit();
    } else if (event.key === "Backspace" && !this._input.value && this._prompts.length) {
      event.preventDefault();
      this._edit(this._prompts.length - 1);
    }
  }

  _render() {
    this._list.replaceChildren(...this._prompts.map((prompt, index) => this._chip(prompt, index)));
    this._list.hidden = !this._prompts.length;
    this._input.placeholder = this._prompts.length ? "Add another" : "Such as: a dog";
  }

  /** @param {string} prompt @param {number} index */
  _chip(prompt, index) {
    const text = make("button", { type: "button", className: "chip-text", title: "Edit" }, prompt);
    text.setAttribute("aria-label", `Edit ${prompt}`);
    text.addEventListener("click", () => this._edit(index));
    text.addEventListener("keydown", (event) => {
      if (event.key === "Delete" || event.key === "Backspace") this._remove(index);
    });
    const remove = make("button", { type: "button", className: "chip-remove", title: "Remove" }, "×");
    remove.setAttribute("aria-label", `Remove ${prompt}`);
    remove.addEventListener("click", () => this._remove(index));
    return make("li", { className: "chip" }, dotOf(index), text, remove);
  }

  /** @param {number} index */
  _remove(index) {
    const [removed] = this._prompts.splice(index, 1);
    this._render();
    this._tell(`Removed ${removed}.`);
    const next = this._list.children[Math.min(index, this._prompts.length - 1)];
    /** @type {HTMLElement} */ (next?.querySelector(".chip-remove") ?? this._input).focus();
  }

  /** @param {number} index */
  _edit(index) {
    const before = this._prompts[index];
    const field = make("input", { type: "text", value: before, className: "chip-field", maxLength: 1000 });
    field.setAttribute("aria-label", `Change ${before}`);
    field.size = Math.max(6, before.length);
    let ended = false;
    const end = (/** @type {string} */ text, /** @type {boolean} */ refocus) => {
      if (ended) return;
      ended = true;
      const after = text.trim();
      const taken = this._prompts.some((prompt, other) => other !== index && prompt === after);
      if (!after || taken) this._prompts.splice(index, 1);
      else this._prompts[index] = after;
      this._render();
      if (after !== before) this._tell(after ? `Changed to ${after}.` : `Removed ${before}.`);
      if (!refocus) return;
      const chip = this._list.children[index]?.querySelector(".chip-text");
      /** @type {HTMLElement} */ (chip ?? this._input).focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
      event.preventDefault();
      event.stopPropagation();
      end(event.key === "Enter" ? field.value : before, true);
    });
    field.addEventListener("blur", () => end(field.value, false));
    this._list.children[index].replaceChildren(field);
    field.focus();
    field.select();
  }
}
