/** Text for numbers, positions, progress and errors. */

/** @param {number} value @param {number} total @param {string[]} names */
const third = (value, total, names) => names[Math.min(2, Math.floor((3 * value) / total))];

/**
 * Describe the position of a point in a picture.
 * @param {{x: number, y: number}} point
 * @param {{width: number, height: number}} size
 */
export function placeOf({ x, y }, { width, height }) {
  const row = third(y, height, ["upper", "middle", "lower"]);
  const column = third(x, width, ["left", "centre", "right"]);
  return row === "middle" && column === "centre" ? "centre" : `${row} ${column}`;
}

/** @param {number} share 0 to 1 */
export function percent(share) {
  if (share > 0 && share < 0.01) return "under 1 %";
  if (share < 1 && share > 0.99) return "over 99 %";
  return `${Math.round(100 * share)} %`;
}

/** @param {number} count @param {string} noun @param {string} [several] its plural */
export const counted = (count, noun, several = `${noun}s`) =>
  `${count.toLocaleString("en")} ${count === 1 ? noun : several}`;

/**
 * Name a target's `probability` for what it is; null where it says nothing.
 * @param {any} target one target of a response
 * @param {any} model the model's entry of /models, if it is known
 * @param {number} texts number of texts in the request
 */
export function nameOfProbability(target, model, texts) {
  if (target.probability === null) return null;
  if (model?.activation === "sigmoid") return "Probability";
  if (target.prompt === null) return `Share among ${counted(model?.classes ?? 0, "class", "classes")}`;
  // A share among one prompt is always 100 %.
  return texts > 1 ? `Share among these ${texts}` : null;
}

/**
 * Explain the numbers beside the heatmaps.
 * @param {any} model the model's entry of /models, if it is known
 * @param {boolean} texts whether texts are asked about
 */
export function meaningOf(model, texts) {
  const subject = texts ? "prompt" : "class";
  const answer = model?.activation === "sigmoid"
    ? `The probability is the model's own for each ${subject} by itself, whatever the others are.`
    : !texts
      ? "The share is how the model divides its answer among all its classes."
      : "The share is how the model divides its answer among these prompts alone. It adds up to 100 %: " +
        "a thing in plain sight has a small share if another prompt fits better, and one of several " +
        "absent things may have a large one.";
  const presence = texts && model?.presence
    ? "The chance that it is there is made of the similarity alone, by a curve fitted to pictures with and " +
      "without the named thing. "
    : "";
  return (
    `Similarity is the cosine between picture and ${subject}, as the model serves it. ${answer} ` +
    `${presence}The ring marks the peak.`
  );
}

/** @param {number} seconds */
export const seconds = (seconds) =>
  seconds < 1 ? "less than a second" : counted(Math.ceil(seconds), "second");

/** @param {number} place 1, 2, 3 ... */
export function ordinal(place) {
  const ending = { one: "st", two: "nd", few: "rd", other: "th" };
  const rule = new Intl.PluralRules("en", { type: "ordinal" }).select(place);
  return `${place}${ending[/** @type {keyof typeof ending} */ (rule)]}`;
}

const STAGES = {
  receiving: "Sending the picture",
  loading: "Loading the model",
  preparing: "Reading the picture",
  computing: "The model is looking",
  drawing: "Drawing the heatmaps",
};

/** Describe the progress of a request. @param {any} progress a response of /explain/{id}/progress */
export function progressInWords({ stage, position, estimated_seconds: left }) {
  const words =
    stage === "queued"
      ? position === 1
        ? "Next in line"
        : `${ordinal(position)} in line`
      : STAGES[/** @type {keyof typeof STAGES} */ (stage)];
  return left === null || left < 1 ? words : `${words}, about ${seconds(left)} to go`;
}

/** Return advice about a problem. @param {import("./api.js").Problem} problem */
export function adviceFor(problem) {
  switch (problem.code) {
    case "unreachable":
      return "Check that it runs and that you are connected, then try again.";
    case "not-a-picture":
      return "Choose a PNG, JPEG, WebP or GIF.";
    case "body-too-large":
    case "image-too-large":
      return "Choose a smaller picture.";
    case "deadline-exceeded":
    case "out-of-memory":
      return "Choose a lower resolution or fewer prompts, or try again later.";
  }
  if (problem.status === 422) return "Change the picture, the prompts or the options, then explain again.";
  if (problem.status >= 500) return "You did nothing wrong. Its operator finds the reason by the id below.";
  return "";
}
