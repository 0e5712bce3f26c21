/** The picture to explain: chosen, dropped, pasted or an example. */

import { Problem, addressOf } from "./api.js";

/**
 * @typedef {object} Picture
 * @property {Blob} blob
 * @property {string} name
 * @property {string|null} address URL of an example
 * @property {ImageBitmap} bitmap upright if the browser supports its orientation tag
 */

/**
 * @param {Blob} blob
 * @param {string} name
 * @param {string|null} [address]
 * @returns {Promise<Picture>}
 */
export async function openPicture(blob, name, address = null) {
  try {
    return { blob, name, address, bitmap: await createImageBitmap(blob) };
  } catch {
    throw new Problem({
      title: "That is not a picture this browser can show",
      detail: `${name} cannot be read as a picture.`,
      error: "not-a-picture",
    });
  }
}

/** @param {{file: string}} example */
export async function openExample({ file }) {
  const address = addressOf(`web/gallery/${file}`);
  let response;
  try {
    response = await fetch(address);
  } catch {
    throw new Problem({
      title: "The server cannot be reached",
      detail: "The example could not be fetched.",
      error: "unreachable",
    });
  }
  return openPicture(await response.blob(), file, address);
}

/**
 * Let a person choose, drop or paste a picture anywhere on the page.
 * @param {HTMLInputElement} input
 * @param {HTMLElement} zone
 * @param {(file: File) => void} chosen
 */
export function listenForPictures(input, zone, chosen) {
  input.addEventListener("change", () => {
    const file = input.files?.[0];
    if (file) chosen(file);
    // So that choosing the same file again is a change.
    input.value = "";
  });
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (!file) return;
    event.preventDefault();
    chosen(file);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) zone.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const file = event.dataTransfer?.files[0];
    if (file) chosen(file);
  });
}
