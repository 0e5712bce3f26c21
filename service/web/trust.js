/** The trust in a heatmap, in words. */

import { make } from "./dom.js";

const NOTHING = 1e-4;

/** @param {number} value */
const short = (value) => Number(value.toPrecision(2)).toString();

/**
 * Say in one sentence what the score does without the warmest fifth of the patches.
 * @param {any} trust of a target of a response; null if it was not measured
 * @returns {string} empty if there is nothing to say
 */
export function trustInWords(trust) {
  const removed = trust?.perturbation;
  if (!removed) return "";
  const { score, warmest, random } = removed;
  const lead = "Removing the warmest fifth of the picture";
  if (Math.abs(warmest) < NOTHING) return `${lead} hardly changes the ${score}.`;
  if (warmest < 0)
    return `${lead} raises the ${score} by ${short(-warmest)}: the map does not show its evidence.`;
  if (random < NOTHING)
    return `${lead} lowers the ${score} by ${short(warmest)}; a random fifth does not lower it.`;
  const only = warmest < random ? "only " : "";
  return `${lead} lowers the ${score} ${only}${short(warmest / random)} times as much as a random fifth.`;
}

/**
 * Return the sentence for a caption; nothing if it was not measured.
 * @param {any} target one target of a response
 */
export function trustCaption(target) {
  const words = trustInWords(target.trust);
  return words ? [make("p", { className: "trust part quiet" }, words)] : [];
}
