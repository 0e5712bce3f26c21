/** The server's own colours, so that the page draws what the server would. */

import { ask } from "./api.js";

/** Colour maps and how opacity grows with a map's value. */
export class Colours {
  /** @param {any} table what web/colormaps.json holds */
  constructor(table) {
    this.default = table.default;
    this.opacity = table.opacity;
    this.names = Object.keys(table.colormaps);
    this._ramp = Uint8ClampedArray.from(table.ramp, (share) => 255 * share);
    this._palettes = new Map(
      Object.entries(table.colormaps).map(([name, hex]) => [name, bytesOfHex(String(hex))]),
    );
  }

  static async load() {
    return new Colours(await ask("web/colormaps.json"));
  }

  /**
   * Levels in colour, each as opaque as its value.
   * @param {Uint8Array} levels
   * @param {number} width
   * @param {string} name
   * @param {boolean} [opaque] everywhere
   */
  paint(levels, width, name, opaque = false) {
    const palette = /** @type {Uint8Array} */ (this._palettes.get(name));
    const image = new ImageData(width, levels.length / width);
    for (let index = 0; index < levels.length; index++) {
      const level = levels[index];
      image.data[4 * index] = palette[3 * level];
      image.data[4 * index + 1] = palette[3 * level + 1];
      image.data[4 * index + 2] = palette[3 * level + 2];
      image.data[4 * index + 3] = opaque ? 255 : this._ramp[level];
    }
    return image;
  }

  /** Draws all colours of a map from low to high. @param {HTMLCanvasElement} canvas @param {string} name */
  drawScale(canvas, name) {
    const image = this.paint(Uint8Array.from({ length: 256 }, (_, level) => level), 256, name, true);
    canvas.getContext("2d")?.putImageData(image, 0, 0);
  }
}

/** @param {string} hex */
const bytesOfHex = (hex) =>
  Uint8Array.from({ length: hex.length / 2 }, (_, index) =>
    Number.parseInt(hex.slice(2 * index, 2 * index + 2), 16),
  );

/**
 * The levels of a grey PNG.
 * @param {string} base64
 * @returns {Promise<{levels: Uint8Array, width: number, height: number}>}
 */
export async function levelsOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), {
    colorSpaceConversion: "none",
  });
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  return { levels: Uint8Array.from({ length: width * height }, (_, index) => data[4 * index]), width, height };
}
