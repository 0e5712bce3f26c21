/** All shown heatmaps as one picture to download. */

import { percent } from "./words.js";

const GAP = 24;
const CAPTION = 64;
const WIDEST = 640;
// Safari refuses larger canvases.
const MOST_PIXELS = 16_000_000;

/**
 * @param {import("./card.js").Card[]} cards
 * @param {number} columns
 * @returns {Promise<Blob>}
 */
export async function sheetOf(cards, columns) {
  const { width: mapWidth, height: mapHeight } = cards[0].canvas;
  const rows = Math.ceil(cards.length / columns);
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
  cards.forEach((card, index) => {
    const left = GAP + (index % columns) * (width + GAP);
    const top = GAP + Math.floor(index / columns) * (height + CAPTION + GAP);
    const { probability, similarity } = card.target;
    const facts = [`similarity ${similarity.toFixed(2)}`];
    if (card.share) facts.push(`${card.share.toLowerCase()}: ${percent(probability)}`);
    if (card.setting) facts.push(card.setting);
    context.drawImage(card.canvas, left, top, width, height);
    context.font = "600 18px system-ui, sans-serif";
    context.fillText(card.prompt, left, top + height + 26, width);
    context.font = "14px system-ui, sans-serif";
    context.fillText(facts.join(" · "), left, top + height + 48, width);
  });
  return sheet.convertToBlob({ type: "image/png" });
}
