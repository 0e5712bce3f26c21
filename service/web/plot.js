/** A line plot as SVG: one line for each series, over places 1, 2, 3 ... */

import { hueOf } from "./hues.js";

/**
 * @typedef {object} Series
 * @property {number} index of its target, for its colour and mark
 * @property {number[]} values one for each place, finite
 */

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 260;
const EDGE = { left: 46, right: 14, top: 12, bottom: 44 };
// Pixels for the name of a place.
const NAME = 26;
// Beside its colour a line is told by its marks, for readers who do not see colours apart.
const MARKS = [
  "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z",
  "M-3.6 -3.6H3.6V3.6H-3.6Z",
  "M0 -4.6L4.6 3.8H-4.6Z",
  "M0 -5L5 0L0 5L-5 0Z",
  "M-4.6 -3.8H4.6L0 4.6Z",
];

/** @param {number} index of a series */
const markOf = (index) => MARKS[index % MARKS.length];

export class Plot {
  /**
   * @param {Series[]} series
   * @param {number} width in pixels
   * @param {{places: string, description: string, downwards: boolean}} how the name of the places, the
   *     plot in words, and whether small values are at the top
   */
  constructor(series, width, { places, description, downwards }) {
    this._width = width;
    this._count = series[0].values.length;
    const { ticks, low, high, digits } = scaleOf(series.flatMap(({ values }) => values), downwards);
    /** @param {number} value */
    this._y = (value) => {
      const share = (value - low) / (high - low);
      return EDGE.top + (downwards ? share : 1 - share) * (HEIGHT - EDGE.top - EDGE.bottom);
    };
    this.element = draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, class: "plot", role: "img" });
    this.element.setAttribute("aria-label", description);
    this._guide = draw("line", { class: "plot-guide", y1: EDGE.top, y2: HEIGHT - EDGE.bottom });
    this.element.append(
      ...ticks.flatMap((tick) => this._tick(tick, digits)),
      ...this._placeNames(),
      text(width - EDGE.right, HEIGHT - 6, places, "end"),
      this._guide,
      ...series.map((each) => this._line(each)),
    );
  }

  /** Mark a place. @param {number} place from 1 */
  mark(place) {
    const x = String(this._x(place));
    this._guide.setAttribute("x1", x);
    this._guide.setAttribute("x2", x);
  }

  /** Return the place that is nearest to a point of the window. @param {{clientX: number}} point */
  placeAt({ clientX }) {
    const box = this.element.getBoundingClientRect();
    const x = ((clientX - box.left) / box.width) * this._width;
    const share = (x - EDGE.left) / (this._width - EDGE.left - EDGE.right);
    return Math.min(this._count, Math.max(1, Math.round(share * (this._count - 1)) + 1));
  }

  /** @param {number} place from 1 */
  _x(place) {
    const share = this._count > 1 ? (place - 1) / (this._count - 1) : 0.5;
    return EDGE.left + share * (this._width - EDGE.left - EDGE.right);
  }

  /** @param {number} value @param {number} digits */
  _tick(value, digits) {
    const y = this._y(value);
    const line = draw("line", { class: value ? "plot-grid" : "plot-zero", x1: EDGE.left, x2: this._width - EDGE.right, y1: y, y2: y });
    return [line, text(EDGE.left - 8, y + 4, value.toFixed(digits), "end")];
  }

  _placeNames() {
    const step = Math.ceil((this._count * NAME) / (this._width - EDGE.left - EDGE.right));
    return Array.from({ length: this._count }, (_, index) => index + 1)
      .filter((place) => (this._count - place) % step === 0)
      .map((place) => text(this._x(place), HEIGHT - EDGE.bottom + 18, String(place), "middle"));
  }

  /** @param {Series} series */
  _line({ values, index }) {
    const points = values.map((value, place) => [this._x(place + 1), this._y(value)]);
    const path = points.map(([x, y], place) => `${place ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
    const marks = points.map(([x, y]) => draw("path", { d: markOf(index), transform: `translate(${x} ${y})` }));
    const group = draw("g", { class: `plot-line ${hueOf(index)}` });
    group.append(draw("path", { class: "plot-path", d: path }), ...marks);
    return group;
  }
}

/** The mark of a series, for a legend. @param {number} index */
export function markFor(index) {
  const mark = draw("svg", { viewBox: "-6 -6 12 12", class: `plot-mark ${hueOf(index)}`, "aria-hidden": "true" });
  mark.append(draw("path", { d: markOf(index) }));
  return mark;
}

/**
 * Choose round values for an axis.
 * @param {number[]} values
 * @param {boolean} whole whether they are whole numbers from 1
 */
function scaleOf(values, whole) {
  const lowest = Math.min(...values);
  const highest = Math.max(...values);
  if (whole) {
    const step = Math.ceil(highest / 8);
    const ticks = Array.from({ length: Math.ceil(highest / step) }, (_, index) => 1 + index * step);
    return { ticks, low: 0.7, high: Math.max(highest, 2) + 0.3, digits: 0 };
  }
  const rough = Math.max(highest - lowest, 0.02) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough) ?? rough;
  const low = Math.floor(lowest / step);
  const high = Math.max(Math.ceil(highest / step), low + 1);
  // Multiples, because sums of steps would miss 0 by rounding.
  const ticks = Array.from({ length: high - low + 1 }, (_, index) => (low + index) * step);
  const digits = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
  return { ticks, low: low * step, high: high * step, digits };
}

/** @param {string} name @param {Record<string, string|number>} attributes */
function draw(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  return element;
}

/** @param {number} x @param {number} y @param {string} words @param {string} anchor */
function text(x, y, words, anchor) {
  const element = draw("text", { x, y, "text-anchor": anchor });
  element.textContent = words;
  return element;
}
