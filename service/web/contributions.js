/** The words of a prompt, shaded by their contributions to the similarity. */

import { make } from "./dom.js";

/** The meaning of the numbers, to read below the heatmaps. */
export const MEANING =
  "The contribution of a word says how the similarity changes as the model attends to it more: if it is " +
  "negative, a slightly weaker word would raise the similarity.";

/** @param {number} value */
function signed(value) {
  const digits = Math.abs(value).toFixed(3);
  if (Number(digits) === 0) return "0";
  return `${value < 0 ? "\u2212" : "+"}${digits}`;
}

/**
 * Return the words of a target for a caption; nothing if they were not asked for.
 * @param {any} target one target of a response
 * @returns {HTMLElement[]}
 */
export function wordsCaption(target) {
  const texts = (target.words ?? []).filter((/** @type {any} */ text) => text.words.length);
  if (!texts.length) return [];
  return [make("p", { className: "part quiet" }, "Each word\u2019s contribution to the similarity:"), ...texts.map(listOf)];
}

/** @param {{words: {text: string, contribution: number, share: number}[]}} text */
function listOf({ words }) {
  const list = make("ul", { className: "contributions", ariaLabel: "Contribution of each word" });
  for (const { text, contribution, share } of words) {
    const item = make("li", {}, text, make("span", { className: "quiet" }, ` ${signed(contribution)}`));
    item.style.setProperty("--share", `${Math.round(100 * share)}%`);
    item.dataset.sign = contribution < 0 ? "lowers" : "raises";
    list.append(item);
  }
  return list;
}
