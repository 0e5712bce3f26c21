/** A picture under one heatmap, or under two with a divider between them; its values are read by pointer and keys. */

import { make } from "./dom.js";
import { tell } from "./status.js";
import { placeOf } from "./words.js";

/** @typedef {import("./heatmap.js").Point} Point */

export class View {
  /**
   * @param {import("./heatmap.js").Heatmap[]} maps one, or two of one picture
   * @param {{width: number, height: number}} size of the canvas in pixels
   * @param {(share: number) => void} divided called when the divider is moved
   */
  constructor(maps, size, divided) {
    this._maps = maps;
    this._share = 0.5;
    /** The part of the picture's width that is seen. */
    this._seen = { left: 0, right: 1 };
    this._point = maps[0].peak;
    this.canvas = make("canvas", size);
    this.canvas.setAttribute("role", "img");
    this._value = make("span", { className: "probe-value" });
    this._probe = make("span", { className: "probe", hidden: true }, this._value);
    this._probe.setAttribute("aria-hidden", "true");
    this.reader = this._makeReader();
    this.element = make("div", { className: "view" }, this.reader);
    if (maps.length > 1) this._addDivider(divided);
  }

  /** The point that is read, or null. @returns {Point|null} */
  get point() {
    return this._probe.hidden ? null : this._point;
  }

  /** The value at the point that is read. */
  get value() {
    return this._value.textContent;
  }

  /**
   * @param {import("./heatmap.js").Look} look
   * @param {import("./colours.js").Colours} colours
   * @param {number} share of the picture's width that shows the first of two maps
   */
  draw(look, colours, share) {
    const [first, second] = this._maps;
    first.paint(this.canvas, look, colours);
    this.canvas.setAttribute("aria-label", this._maps.map((map) => map.inWords(look.regions)).join(" "));
    if (!second) return;
    this._divide(share);
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    const { width, height } = this.canvas;
    context.save();
    context.beginPath();
    context.rect(share * width, 0, width, height);
    context.clip();
    second.paint(this.canvas, look, colours);
    context.restore();
  }

  /**
   * Keep the divider's thumb and names within the seen part of a view that is larger than its frame.
   * @param {{left: number, top: number, width: number, height: number}} part in pixels of the screen
   */
  see(part) {
    for (const [name, value] of Object.entries(part)) {
      this.element.style.setProperty(`--seen-${name}`, `${value}px`);
    }
    const whole = this.element.clientWidth || 1;
    this._seen = { left: part.left / whole, right: (part.left + part.width) / whole };
    this._name();
  }

  /** Return the point of the picture at a place of the window. @param {{clientX: number, clientY: number}} place @returns {Point} */
  pointAt({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    const { width, height } = this._maps[0].size;
    return {
      x: Math.floor(((clientX - box.left) / box.width) * width),
      y: Math.floor(((clientY - box.top) / box.height) * height),
    };
  }

  /** Focus the heatmap without scrolling. */
  focus() {
    this.reader.focus({ preventScroll: true });
  }

  _makeReader() {
    const reader = make("div", { className: "reader", tabIndex: 0 }, this.canvas, this._probe);
    reader.setAttribute("role", "application");
    reader.setAttribute("aria-roledescription", "heatmap");
    reader.setAttribute(
      "aria-label",
      `Read the heatmap of ${this._maps[0].prompt}: arrow keys move, Home goes to the peak`,
    );
    for (const kind of /** @type {const} */ (["pointerdown", "pointermove"])) {
      reader.addEventListener(kind, (event) => this._show(this.pointAt(event)));
    }
    reader.addEventListener("pointerleave", () => this._hide());
    reader.addEventListener("focus", () => {
      if (reader.matches(":focus-visible")) this._show(this._point);
    });
    reader.addEventListener("blur", () => this._hide());
    reader.addEventListener("keydown", (event) => this._steered(event));
    return reader;
  }

  /** @param {KeyboardEvent} event */
  _steered(event) {
    // As far on the screen at every size, down to single pixels of the picture.
    const scale = this.canvas.clientWidth / this._maps[0].size.width;
    const step = Math.max(1, (event.shiftKey ? 40 : 8) / scale);
    const moves = {
      ArrowLeft: [-step, 0],
      ArrowRight: [step, 0],
      ArrowUp: [0, -step],
      ArrowDown: [0, step],
    };
    if (event.key === "Escape") {
      this._hide();
      return;
    }
    const move = moves[/** @type {keyof typeof moves} */ (event.key)];
    if (!move && event.key !== "Home") return;
    event.preventDefault();
    const from = move ? this._point : this._maps[0].peak;
    const [across, down] = move ?? [0, 0];
    this._show({ x: Math.round(from.x + across), y: Math.round(from.y + down) });
    this._probe.scrollIntoView({ block: "nearest", inline: "nearest" });
    tell(`${this._values} at the ${placeOf(this._point, this._maps[0].size)}`);
  }

  /** The values of all maps at the point, for screen readers. */
  get _values() {
    const values = this._maps.map((map) => map.valueAt(this._point).toFixed(2));
    if (values.length === 1) return values[0];
    return this._maps.map(({ setting }, index) => `${setting} ${values[index]}`).join(", ");
  }

  /** @param {Point} point */
  _show(point) {
    const { width, height } = this._maps[0].size;
    this._point = {
      x: Math.min(width - 1, Math.max(0, point.x)),
      y: Math.min(height - 1, Math.max(0, point.y)),
    };
    const left = (this._point.x + 0.5) / width;
    const top = (this._point.y + 0.5) / height;
    const seen = this._maps.length > 1 && left > this._share ? this._maps[1] : this._maps[0];
    this._probe.style.left = `${100 * left}%`;
    this._probe.style.top = `${100 * top}%`;
    this._probe.classList.toggle("flip", left > 0.7);
    this._value.textContent = seen.valueAt(this._point).toFixed(2);
    this._probe.hidden = false;
  }

  _hide() {
    this._probe.hidden = true;
  }

  /** @param {(share: number) => void} divided */
  _addDivider(divided) {
    const [first, second] = this._maps;
    this._divider = make("input", { type: "range", className: "divider", min: "0", max: "100", step: "1" });
    this._divider.setAttribute(
      "aria-label",
      `Divider between ${first.setting} and ${second.setting} over ${first.prompt}`,
    );
    this._divider.addEventListener("input", () => divided(Number(this._divider?.value) / 100));
    this._line = make("span", { className: "divider-line" });
    this._sides = this._maps.map(({ setting }) => make("span", { className: "side" }, setting));
    for (const part of [this._line, ...this._sides]) part.setAttribute("aria-hidden", "true");
    this.element.append(this._line, ...this._sides, this._divider);
  }

  /** @param {number} share */
  _divide(share) {
    if (!this._divider || !this._line || !this._sides) return;
    const percent = Math.round(100 * share);
    const [first, second] = this._maps;
    this._share = share;
    this._divider.value = String(percent);
    this._divider.setAttribute(
      "aria-valuetext",
      `${first.setting} on the left ${percent} %, ${second.setting} on the right ${100 - percent} %`,
    );
    this._line.style.left = `${percent}%`;
    this._name();
  }

  /** Show the names of both sides, as far as there is room for them. */
  _name() {
    const { left, right } = this._seen;
    const share = (this._share - left) / (right - left);
    this._sides?.[0].classList.toggle("gone", share < 0.12);
    this._sides?.[1].classList.toggle("gone", share > 0.88);
  }
}
