/** All heatmaps as one picture to download. */

import { MOST_PIXELS } from "./heatmap.js";
import { percent } from "./words.js";

const GAP = 24;
const CAPTION = 64;
const WIDEST = 640;

/**
 * @param {import("./heatmap.js").Heatmap[]} maps
 * @param {number} columns
 * @param {import("./heatmap.js").Look} look
 * @param {import("./colours.js").Colours} colours
 * @returns {Promise<Blob>}
 */
export async function sheetOf(maps, columns, look, colours) {
  const { width: mapWidth, height: mapHeight } = maps[0].mapSize;
  const rows = Math.ceil(maps.length / columns);
  const most = Math.sqrt((MOST_PIXELS / (rows * columns)) * (mapWidth / mapHeight)) - CAPTION - GAP;
  const width = Math.floor(Math.max(1, Math.min(WIDEST, mapWidth, most)));
  const height = Math.round((width / mapWidth) * mapHeight);
  const sheet = new OffscreenCanvas(
    columns * (width + GAP) + GAP,
    rows * (height + CAPTION + GAP) + GAP,
  );
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (sheet.getContext("2d"));
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, sheet.width, sheet.height);
  context.fillStyle = "#1d1a17";
  const tile = new OffscreenCanvas(width, height);
  maps.forEach((map, index) => {
    const left = GAP + (index % columns) * (width + GAP);
    const top = GAP + Math.floor(index / columns) * (height + CAPTION + GAP);
    const { probability, similarity } = map.target;
    const facts = [`similarity ${similarity.toFixed(2)}`];
    if (map.share) facts.push(`${map.share.toLowerCase()}: ${percent(probability)}`);
    if (map.setting) facts.push(map.setting);
    map.paint(tile, look, colours);
    context.drawImage(tile, left, top);
    context.font = "600 18px system-ui, sans-serif";
    context.fillText(map.prompt, left, top + height + 26, width);
    context.font = "14px system-ui, sans-serif";
    context.fillText(facts.join(" · "), left, top + height + 48, width);
  });
  return sheet.convertToBlob({ type: "image/png" });
}
