/** One heatmap over its picture, with the model's numbers. */

import { levelsOf } from "./colours.js";
import { make } from "./dom.js";
import { counted, percent, placeOf } from "./words.js";

/**
 * @typedef {object} Look
 * @property {number} opacity 0 to 1
 * @property {string} colormap
 * @property {boolean} regions whether regions are drawn
 */

export class Card {
  /**
   * @param {any} target one target of a response
   * @param {{width: number, height: number}} size of the picture
   * @param {ImageBitmap} picture
   * @param {{levels: Uint8Array, width: number, height: number}} map
   * @param {string} setting description of the setting; empty if only one is shown
   * @param {string|null} share name of the probability; null if it is not shown
   * @param {(news: string) => void} tell
   */
  constructor(target, size, picture, map, setting, share, tell) {
    this.target = target;
    this.setting = setting;
    this.share = share;
    this.prompt = target.prompt ?? target.target;
    this._size = size;
    this._picture = picture;
    this._map = map;
    this._tell = tell;
    this._painted = "";
    this._heat = new OffscreenCanvas(map.width, map.height);
    this.canvas = make("canvas", { width: map.width, height: map.height });
    this.canvas.setAttribute("role", "img");
    this._value = make("span", { className: "probe-value" });
    this._probe = make("span", { className: "probe", hidden: true }, this._value);
    this._probe.setAttribute("aria-hidden", "true");
    this._point = target.statistics.peak_position;
    this.element = make("figure", { className: "card" }, this._view(), this._caption());
  }

  /** @param {any} target @param {any} image @param {ImageBitmap} picture @param {string} setting @param {string|null} share @param {(news: string) => void} tell */
  static async make(target, image, picture, setting, share, tell) {
    return new Card(target, image.size, picture, await levelsOf(target), setting, share, tell);
  }

  /** @param {Look} look @param {import("./colours.js").Colours} colours */
  draw(look, colours) {
    const { width, height } = this._map;
    if (this._painted !== look.colormap) {
      const painted = colours.paint(this._map.levels, width, look.colormap);
      this._heat.getContext("2d")?.putImageData(painted, 0, 0);
      this._painted = look.colormap;
    }
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    context.globalAlpha = 1;
    context.drawImage(this._picture, 0, 0, width, height);
    context.globalAlpha = look.opacity;
    context.drawImage(this._heat, 0, 0);
    context.globalAlpha = 1;
    if (look.regions) this._drawRegions(context);
    this._drawPeak(context);
    this.canvas.setAttribute("aria-label", this._inWords(look.regions));
  }

  /** Focus the heatmap without scrolling. */
  focus() {
    /** @type {HTMLElement} */ (this.element.firstChild).focus({ preventScroll: true });
  }

  /** @param {any[]} regions for another threshold */
  set regions(regions) {
    this.target = { ...this.target, regions };
  }

  /** Return the map's value at a point of the picture, 0 to 1. @param {{x: number, y: number}} point */
  valueAt({ x, y }) {
    const { levels, width, height } = this._map;
    const column = Math.min(width - 1, Math.floor((x / this._size.width) * width));
    const row = Math.min(height - 1, Math.floor((y / this._size.height) * height));
    return levels[row * width + column] / 255;
  }

  /** @param {boolean} withRegions */
  _inWords(withRegions) {
    const { x, y } = this.target.statistics.peak_position;
    const { width, height } = this._size;
    const found = withRegions ? `, ${counted(this.target.regions?.length ?? 0, "region")} boxed` : "";
    return (
      `Heatmap of ${this.prompt}: it peaks at the ${placeOf({ x, y }, this._size)}, ` +
      `${x} of ${width} pixels from the left and ${y} of ${height} from the top${found}.`
    );
  }

  _view() {
    const view = make("div", { className: "view", tabIndex: 0 }, this.canvas, this._probe);
    view.setAttribute("role", "application");
    view.setAttribute("aria-roledescription", "heatmap");
    view.setAttribute(
      "aria-label",
      `Read the heatmap of ${this.prompt}: arrow keys move, Home goes to the peak`,
    );
    view.addEventListener("pointermove", (event) => {
      const box = this.canvas.getBoundingClientRect();
      this._show({
        x: Math.round(((event.clientX - box.left) / box.width) * this._size.width),
        y: Math.round(((event.clientY - box.top) / box.height) * this._size.height),
      });
    });
    view.addEventListener("pointerleave", () => this._hide());
    view.addEventListener("focus", () => {
      if (view.matches(":focus-visible")) this._show(this._point);
    });
    view.addEventListener("blur", () => this._hide());
    view.addEventListener("keydown", (event) => this._steered(event));
    return view;
  }

  /** @param {KeyboardEvent} event */
  _steered(event) {
    const step = (event.shiftKey ? 0.1 : 0.02) * Math.max(this._size.width, this._size.height);
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
    const from = move ? this._point : this.target.statistics.peak_position;
    const [across, down] = move ?? [0, 0];
    this._show({ x: Math.round(from.x + across), y: Math.round(from.y + down) });
    this._tell(`${this._value.textContent} at the ${placeOf(this._point, this._size)}`);
  }

  /** @param {{x: number, y: number}} point */
  _show(point) {
    const { width, height } = this._size;
    this._point = {
      x: Math.min(width - 1, Math.max(0, point.x)),
      y: Math.min(height - 1, Math.max(0, point.y)),
    };
    const left = (this._point.x + 0.5) / width;
    const top = (this._point.y + 0.5) / height;
    this._probe.style.left = `${100 * left}%`;
    this._probe.style.top = `${100 * top}%`;
    this._probe.classList.toggle("flip", left > 0.7);
    this._value.textContent = this.valueAt(this._point).toFixed(2);
    this._probe.hidden = false;
  }

  _hide() {
    this._probe.hidden = true;
  }

  _caption() {
    const { probability, similarity, statistics } = this.target;
    const caption = make("figcaption");
    if (this.setting) caption.append(make("p", { className: "setting" }, this.setting));
    caption.append(make("h3", {}, this.prompt));
    const facts = make("dl", { className: "facts" });
    if (this.share) {
      const bar = make("span", { className: "share" }, make("span"));
      /** @type {HTMLElement} */ (bar.firstChild).style.width = `${100 * probability}%`;
      facts.append(make("dt", {}, this.share), make("dd", {}, percent(probability)));
      caption.append(bar);
    }
    facts.append(make("dt", {}, "Similarity"), make("dd", {}, similarity.toFixed(2)));
    facts.append(make("dt", {}, "Peak"), make("dd", {}, placeOf(statistics.peak_position, this._size)));
    caption.append(facts);
    return caption;
  }

  /** Width in canvas pixels of a line that is one pixel wide on the screen. */
  get _line() {
    return Math.max(1, this._map.width / (this.canvas.clientWidth || this._map.width));
  }

  /** @param {CanvasRenderingContext2D} context */
  _drawPeak(context) {
    const { x, y } = this.target.statistics.peak_position;
    const across = ((x + 0.5) / this._size.width) * this._map.width;
    const down = ((y + 0.5) / this._size.height) * this._map.height;
    outlined(context, this._line, () => {
      context.beginPath();
      context.arc(across, down, 7 * this._line, 0, 2 * Math.PI);
      context.stroke();
    });
  }

  /** @param {CanvasRenderingContext2D} context */
  _drawRegions(context) {
    const across = this._map.width / this._size.width;
    const down = this._map.height / this._size.height;
    for (const { box } of this.target.regions ?? []) {
      outlined(context, this._line, () =>
        context.strokeRect(
          box.left * across,
          box.top * down,
          (box.right - box.left) * across,
          (box.bottom - box.top) * down,
        ),
      );
    }
  }
}

/**
 * Draw white lines with a dark edge, which are visible on any picture.
 * @param {CanvasRenderingContext2D} context
 * @param {number} line
 * @param {() => void} stroke
 */
function outlined(context, line, stroke) {
  for (const [style, width] of /** @type {[string, number][]} */ ([["#000000b0", 4], ["#ffffff", 2]])) {
    context.strokeStyle = style;
    context.lineWidth = width * line;
    stroke();
  }
}
