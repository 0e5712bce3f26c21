/** The form of settings, with choices from the server's list of models. */

import { byId, offer } from "./dom.js";
import { describeMethod } from "./methods.js";

/** @typedef {import("./api.js").Settings} Settings */

const SCORES = {
  mean: "Mean of patches",
  cls: "Class token",
  pooler: "Attention pooler",
};

/** The fields of a setting, and of a second setting to compare with. */
export class SettingsForm {
  /** @param {() => void} changed called after another model is chosen */
  constructor(changed) {
    /** @type {any[]} */
    this._models = [];
    for (const suffix of ["", "-second"]) {
      byId(`model${suffix}`).addEventListener("change", () => {
        this._describe(suffix);
        changed();
      });
      byId(`method${suffix}`).addEventListener("change", () => {
        // Blocks chosen for one method are not those of another.
        byId(`layers${suffix}`).value = "";
        this._describeMethod(suffix);
      });
    }
    byId("compare").addEventListener("change", () => {
      byId("second").hidden = !this.comparing;
      this._offerHeads();
    });
    byId("heads").addEventListener("change", () => this._describeHeads());
    byId("options").addEventListener("change", () => this._tellSame());
  }

  /** @param {any[]} models from the response of /models */
  offerModels(models) {
    const first = !this._models.length;
    this._models = models;
    for (const suffix of ["", "-second"]) {
      offer(
        byId(`model${suffix}`),
        models.map(({ id, state }) => [id, state === "ready" ? id : `${id} (${state})`]),
      );
      this._describe(suffix);
    }
    if (!first) return;
    // The settings to compare differ by default.
    if (models.length > 1) byId("model-second").value = models[1].id;
    else if (models[0]?.layers > 1) byId("layers-second").value = "all";
    if (models.length > 1) this._describe("-second");
  }

  /** Whether the first setting uses the built-in model. */
  get asksStarter() {
    return byId("model").value === "starter";
  }

  /** The entry of /models of a model. @param {string|null} model its id */
  infoOf(model) {
    return this._models.find(({ id }) => id === model);
  }

  get comparing() {
    return byId("compare").checked;
  }

  /** Return one setting, or two to compare. @returns {Settings[]} */
  read() {
    return this.comparing ? [this._read(""), this._read("-second")] : [this._read("")];
  }

  /** Say that there is nothing to compare while both settings are the same. */
  _tellSame() {
    const [first, second] = this.read();
    const same = this.comparing && JSON.stringify(first) === JSON.stringify(second);
    byId("second-same").textContent = same
      ? "Both settings are the same. Choose another model, method, number of layers or score."
      : "";
  }

  /** @param {string} suffix @returns {Settings} */
  _read(suffix) {
    const value = (/** @type {string} */ name) => byId(name).value || null;
    const layers = value(`layers${suffix}`);
    const size = value("size");
    return {
      model: value(`model${suffix}`),
      method: value(`method${suffix}`),
      heads: value("heads"),
      layers: layers === null || layers === "all" ? layers : Number(layers),
      score: value(`score${suffix}`),
      size: size && Number(size),
      fit: byId("fit").value,
      normalize: byId("normalize").value,
      trust: byId("trust").checked ? "quick" : null,
      words: byId("contributions").checked,
    };
  }

  /** @param {string} suffix */
  _describe(suffix) {
    const model = this.infoOf(byId(`model${suffix}`).value);
    offer(byId(`method${suffix}`), methodChoices(model?.methods));
    if (!suffix) offer(byId("size"), sizeChoices(model));
    this._describeMethod(suffix);
  }

  /** @param {string} suffix */
  _describeMethod(suffix) {
    const model = this.infoOf(byId(`model${suffix}`).value);
    const chosen = byId(`method${suffix}`).value || null;
    const about = methodOf(model, chosen);
    byId(`method${suffix}-about`).replaceChildren(...(about ? describeMethod(about) : []));
    offer(byId(`layers${suffix}`), layerChoices(model?.layers, about));
    // Every other method explains the score that the model serves.
    offer(byId(`score${suffix}`), scoreChoices(chosen && about ? [about.score] : model?.scores));
    if (!suffix) this._offerHeads();
  }

  /** Offer heatmaps of single heads if the method has them; heads of two settings are no counterparts. */
  _offerHeads() {
    const method = methodOf(this.infoOf(byId("model").value), byId("method").value || null);
    const known = Boolean(method?.splits_heads);
    const offered = known && !this.comparing;
    if (!offered) byId("heads").value = "";
    for (const name of ["heads", "heads-label"]) byId(name).hidden = !offered;
    this._describeHeads(known && !offered ? "Compared heatmaps are the mean of all heads." : "");
  }

  /** Say what a heatmap for each head excludes. @param {string} otherwise what to say of the mean */
  _describeHeads(otherwise = "") {
    const each = byId("heads").value === "each";
    byId("heads-about").textContent = each
      ? "Takes a single prompt or class. Heatmaps of single heads cannot be tested, and have no contributions of words."
      : otherwise;
    for (const name of ["trust", "contributions"]) {
      byId(name).disabled = each;
      if (each) byId(name).checked = false;
    }
  }
}

/**
 * Describe compared settings by their differences; one alone needs no description.
 * @param {Settings[]} settings
 * @param {(model: string) => any} infoOf returns the entry of /models of a model
 * @returns {string[]}
 */
export function describeSettings(settings, infoOf) {
  if (settings.length < 2) return [""];
  const described = settings.map(({ model, method, layers, score }) => {
    const about = methodOf(infoOf(model ?? ""), method);
    const usual = about ? lastBlocks(about.layers.length) : "usual blocks";
    const blocks = layers === "all" ? "all blocks" : layers ? lastBlocks(Number(layers)) : usual;
    return [
      { chosen: model, text: model },
      { chosen: method, text: about?.title ?? "LeGrad" },
      { chosen: layers, text: blocks },
      { chosen: score, text: SCORES[/** @type {keyof typeof SCORES} */ (score)] ?? "usual score" },
    ];
  });
  const texts = described.map((parts) =>
    parts
      // A usual value that another method brings with it was not chosen.
      .filter(({ chosen }, place) => described.some((other) => other[place].chosen !== chosen))
      .map(({ text }) => text)
      .join(", "),
  );
  return texts[0] === texts[1] ? ["First", "Second"] : texts;
}

/** @param {any} model its entry of /models @param {string|null} method its name; null for the default */
const methodOf = (model, method) =>
  method
    ? model?.methods?.find((/** @type {any} */ each) => each.name === method)
    : model?.methods?.[0];

/** @param {number} count */
const lastBlocks = (count) => (count === 1 ? "last block" : `last ${count} blocks`);

/** @param {any[]|null|undefined} methods @returns {[string, string][]} */
function methodChoices(methods) {
  if (!methods?.length) return [["", "LeGrad"]];
  return methods.map(({ name, title }, index) => [index ? name : "", title]);
}

/**
 * @param {number|null|undefined} layers number of the model's blocks
 * @param {any} method its entry of /models; undefined if it is not known
 * @returns {[string, string][]}
 */
function layerChoices(layers, method) {
  const usual = method?.layers.length ?? 2;
  if (["last", "all"].includes(method?.layers_taken))
    return [["", `${usual === layers ? `All ${layers} blocks` : capital(lastBlocks(usual))} (only)`]];
  const counts = [1, 2, 3, 4, 6, 8, 12, 16, 24].filter((count) => count < (layers ?? 3));
  const all = layers ? `All ${layers} blocks` : "All blocks";
  /** @type {[string, string][]} */
  const choices = counts.map((count) =>
    count === usual
      ? ["", `${capital(lastBlocks(count))} (usual)`]
      : [String(count), capital(lastBlocks(count))],
  );
  choices.push(usual === layers ? ["", `${all} (usual)`] : ["all", all]);
  // The default comes first.
  return choices.sort(([left], [right]) => Number(left !== "") - Number(right !== ""));
}

/** @param {string[]|null|undefined} scores @returns {[string, string][]} */
function scoreChoices(scores) {
  if (!scores?.length) return [["", "The model's usual one"]];
  return scores.map((score, index) => [
    index ? score : "",
    SCORES[/** @type {keyof typeof SCORES} */ (score)] ?? score,
  ]);
}

/** @param {any} model @returns {[string, string][]} */
function sizeChoices(model) {
  if (!model?.image_size) return [["", "The model's own"]];
  const own = model.image_size.width;
  const patch = Math.max(model.patch_size.width, model.patch_size.height);
  const inWords = (/** @type {number} */ size) => {
    const patches = Math.floor(size / model.patch_size.width);
    return `${size} px, ${patches} × ${Math.floor(size / model.patch_size.height)} patches`;
  };
  const larger = [1.5, 2, 3]
    .map((factor) => Math.round((factor * own) / patch) * patch)
    .filter((size) => size <= 1024);
  return [
    ["", inWords(own)],
    ...larger.map((size) => /** @type {[string, string]} */ ([String(size), inWords(size)])),
  ];
}

/** @param {string} text */
const capital = (text) => text[0].toUpperCase() + text.slice(1);
