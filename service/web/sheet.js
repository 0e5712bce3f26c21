/** All shown heatmaps as one picture to download. */

import { percent } from "./words.js";

const GAP = 24;
const CAPTION = 64;
const WIDEST = 640;

/**
 * @param {import("./card.js").Card[]} cards
 * @param {number} columns
 * @returns {Promise<Blob>}
 */
export async function sheetOf(cards, columns) {
  const width = Math.min(WIDEST, cards[0].canvas.width);
  const height = Math.round((width / cards[0].canvas.width) * cards[0].canvas.height);
  const rows = Math.ceil(cards.length / columns);
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
    if (probability !== null) facts.push(`probability ${percent(probability)}`);
    if (card.setting) facts.push(card.setting);
    context.drawImage(card.canvas, left, top, width, height);
    context.font = "600 18px system-ui, sans-serif";
    context.fillText(card.prompt, left, top + height + 26, width);
    context.font = "14px system-ui, sans-serif";
    context.fillText(facts.join(" · "), left, top + height + 48, width);
  });
  return sheet.convertToBlob({ type: "image/png" });
}
