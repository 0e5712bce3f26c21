/** The colours that tell targets apart: on chips, cards and lines. */

import { make } from "./dom.js";

// As many as page.css has; further targets begin again.
const HUES = 8;

/** The class of a target's colour. @param {number} index of the target */
export const hueOf = (index) => `hue-${index % HUES}`;

/** A dot in a target's colour. @param {number} index of the target */
export function dotOf(index) {
  const dot = make("span", { className: `dot ${hueOf(index)}` });
  dot.setAttribute("aria-hidden", "true");
  return dot;
}
