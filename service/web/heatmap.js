/** One heatmap with its numbers, and how it is painted over its picture. */

import { levelsOf } from "./colours.js";
import { counted, placeOf } from "./words.js";

// Safari refuses larger canvases.
export const MOST_PIXELS = 16_000_000;

/**
 * @typedef {{x: number, y: number}} Point a pixel of the picture
 *
 * @typedef {object} Look
 * @property {number} opacity 0 to 1
 * @property {string} colormap
 * @property {boolean} regions whether regions are drawn
 *
 * @typedef {object} Named
 * @property {number} index of the target in the request, which gives its colour
 * @property {string} setting description of the setting; empty if only one is shown
 * @property {string|null} share name of the probability; null if it is not shown
 *
 * @typedef {CanvasRenderingContext2D|OffscreenCanvasRenderingContext2D} Context
 */

export class Heatmap {
  /**
   * @param {any} target one target of a response
   * @param {{width: number, height: number}} size of the picture
   * @param {ImageBitmap} picture
   * @param {{levels: Uint8Array, width: number, height: number}} map
   * @param {Named} named
   */
  constructor(target, size, picture, map, { index, setting, share }) {
    this.target = target;
    this.index = index;
    this.size = size;
    this.setting = setting;
    this.share = share;
    const asked = target.prompt ?? target.target;
    /** The prompt, with the head if the map is that of one. */
    this.prompt = target.head === null ? asked : `${asked}, head ${target.head}`;
    this._picture = picture;
    this._map = map;
    this._painted = "";
    this._heat = new OffscreenCanvas(map.width, map.height);
  }

  /** @param {any} target @param {any} image @param {ImageBitmap} picture @param {Named} named */
  static async read(target, image, picture, named) {
    return new Heatmap(target, image.size, picture, await levelsOf(target), named);
  }

  /** Size of the map in pixels, which may be smaller than the picture. */
  get mapSize() {
    const { width, height } = this._map;
    return { width, height };
  }

  /** @returns {Point} */
  get peak() {
    return this.target.statistics.peak_position;
  }

  /** @param {any[]} regions for another threshold */
  set regions(regions) {
    this.target = { ...this.target, regions };
  }

  /**
   * Paint the picture, the heatmap over it, its regions and its peak onto a whole canvas.
   * @param {HTMLCanvasElement|OffscreenCanvas} canvas
   * @param {Look} look
   * @param {import("./colours.js").Colours} colours
   */
  paint(canvas, look, colours) {
    const { width, height } = canvas;
    if (this._painted !== look.colormap) {
      const painted = colours.paint(this._map.levels, this._map.width, look.colormap);
      this._heat.getContext("2d")?.putImageData(painted, 0, 0);
      this._painted = look.colormap;
    }
    const context = /** @type {Context} */ (canvas.getContext("2d"));
    context.drawImage(this._picture, 0, 0, width, height);
    context.globalAlpha = look.opacity;
    context.drawImage(this._heat, 0, 0, width, height);
    context.globalAlpha = 1;
    // The width of a line that is one pixel wide on the screen.
    const line = Math.max(1, width / (("clientWidth" in canvas && canvas.clientWidth) || width));
    if (look.regions) this._paintRegions(context, line);
    this._paintPeak(context, line);
  }

  /** Return the map's value at a point of the picture, 0 to 1. @param {Point} point */
  valueAt({ x, y }) {
    const { levels, width, height } = this._map;
    const column = Math.min(width - 1, Math.floor((x / this.size.width) * width));
    const row = Math.min(height - 1, Math.floor((y / this.size.height) * height));
    return levels[row * width + column] / 255;
  }

  /** @param {boolean} withRegions */
  inWords(withRegions) {
    const { x, y } = this.peak;
    const { width, height } = this.size;
    const setting = this.setting && `, ${this.setting}`;
    const found = withRegions ? `, ${counted(this.target.regions?.length ?? 0, "region")} boxed` : "";
    return (
      `Heatmap of ${this.prompt}${setting}: it peaks at the ${placeOf({ x, y }, this.size)}, ` +
      `${x} of ${width} pixels from the left and ${y} of ${height} from the top${found}.`
    );
  }

  /** @param {Context} context @param {number} line */
  _paintPeak(context, line) {
    const { width, height } = context.canvas;
    const across = ((this.peak.x + 0.5) / this.size.width) * width;
    const down = ((this.peak.y + 0.5) / this.size.height) * height;
    outlined(context, line, () => {
      context.beginPath();
      context.arc(across, down, 7 * line, 0, 2 * Math.PI);
      context.stroke();
    });
  }

  /** @param {Context} context @param {number} line */
  _paintRegions(context, line) {
    const across = context.canvas.width / this.size.width;
    const down = context.canvas.height / this.size.height;
    for (const { box } of this.target.regions ?? []) {
      outlined(context, line, () =>
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
 * @param {Context} context
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
