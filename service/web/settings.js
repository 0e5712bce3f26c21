/** The form of settings, with choices from the server's list of models. */

import { byId, offer } from "./dom.js";

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
    }
    byId("compare").addEventListener("change", () => {
      byId("second").hidden = !this.comparing;
    });
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

  /** Describe a setting. @param {Settings} settings */
  static describe({ model, layers, score }) {
    const blocks =
      layers === null ? "last 2 blocks" : layers === "all" ? "all blocks" : lastBlocks(Number(layers));
    return [model, blocks, score && `score ${score}`].filter(Boolean).join(", ");
  }

  /** @param {string} suffix @returns {Settings} */
  _read(suffix) {
    const value = (/** @type {string} */ name) => byId(name).value || null;
    const layers = value(`layers${suffix}`);
    const size = value("size");
    return {
      model: value(`model${suffix}`),
      layers: layers === null || layers === "all" ? layers : Number(layers),
      score: value(`score${suffix}`),
      size: size && Number(size),
      fit: byId("fit").value,
      normalize: byId("normalize").value,
    };
  }

  /** @param {string} suffix */
  _describe(suffix) {
    const model = this.infoOf(byId(`model${suffix}`).value);
    offer(byId(`layers${suffix}`), layerChoices(model?.layers));
    offer(byId(`score${suffix}`), scoreChoices(model?.scores));
    if (!suffix) offer(byId("size"), sizeChoices(model));
  }
}

/** @param {number} count */
const lastBlocks = (count) => (count === 1 ? "last block" : `last ${count} blocks`);

/** @param {number|null|undefined} layers @returns {[string, string][]} */
function layerChoices(layers) {
  const counts = [1, 2, 3, 4, 6, 8, 12, 16, 24].filter((count) => count < (layers ?? 3));
  return [
    ...counts.map((count) => /** @type {[string, string]} */ (
      count === 2 ? ["", "Last 2 blocks (usual)"] : [String(count), capital(lastBlocks(count))]
    )),
    ["all", layers ? `All ${layers} blocks` : "All blocks"],
  ].sort(([left], [right]) => Number(left !== "") - Number(right !== "")); // the default first
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
