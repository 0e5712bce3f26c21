/** The server's colour maps, so that the page draws the same overlays as the server. */

import { ask } from "./api.js";

/** Colour maps, and opacity as a function of a map's value. */
export class Colours {
  /** @param {any} table content of web/colormaps.json */
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
   * Return an image of the levels in colour, with opacity that grows with the level.
   * @param {Uint8Array} levels
   * @param {number} width
   * @param {string} name
   * @param {boolean} [opaque] whether every pixel is fully opaque
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

  /** Draw the colours of a colour map from low to high. @param {HTMLCanvasElement} canvas @param {string} name */
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
 * Return the levels of a heatmap.
 * @param {{heatmap: string, heatmap_type: string}} target
 * @returns {Promise<{levels: Uint8Array, width: number, height: number}>}
 */
export async function levelsOf({ heatmap, heatmap_type }) {
  const bytes = Uint8Array.from(atob(heatmap), (character) => character.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: heatmap_type }), {
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
