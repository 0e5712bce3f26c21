/** The descriptions of methods, in the form and beside the heatmaps that they made. */

import { byId, make } from "./dom.js";

const ARXIV = /arXiv (\d{4}\.\d{4,5})/;

/**
 * Describe a method in full.
 * @param {any} method its entry of /models
 * @returns {HTMLParagraphElement[]}
 */
export function describeMethod({ description, note, source }) {
  const [before, number, after] = source.split(ARXIV);
  const link = number && make("a", { href: `https://arxiv.org/abs/${number}` }, `arXiv ${number}`);
  return [
    make("p", {}, description.replaceAll("\n", " ")),
    ...(note ? [make("p", {}, note)] : []),
    make("p", {}, ...(link ? [before, link, after] : [source])),
  ];
}

/**
 * Describe the methods of the shown heatmaps.
 * @param {import("./results.js").Run[]} runs
 * @param {(model: string) => any} infoOf returns the entry of /models of a model
 */
export function showMethods(runs, infoOf) {
  /** @type {Map<string, any>} by name; a model's own description has its own note */
  const methods = new Map();
  for (const { answer } of runs) {
    const { name, targeted } = answer.images[0].method;
    const known = infoOf(answer.model)?.methods?.find((/** @type {any} */ each) => each.name === name);
    if (known) methods.set(`${known.title}${known.note ?? ""}`, { ...known, targeted });
  }
  const used = [...methods.values()];
  byId("methods").hidden = !used.length;
  byId("methods-names").textContent = [...new Set(used.map(({ title }) => title))].join(" and ");
  byId("methods-about").replaceChildren(
    ...used.flatMap((method) => [
      make("dt", {}, method.title),
      make("dd", {}, ...describeMethod(method)),
    ]),
  );
  const fixed = used.filter(({ targeted }) => !targeted).map(({ title }) => title);
  const { prompts, targets } = runs[0].question;
  const several = prompts.length + targets.length > 1;
  byId("untargeted").hidden = !fixed.length || !several;
  byId("untargeted").textContent = `${fixed.join(" and ")} gives every prompt the same heatmap.`;
}
