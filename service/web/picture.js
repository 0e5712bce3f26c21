/** Reading of pictures: chosen, dropped, pasted or an example. */

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
      detail: `${name} cannot be read: it is no picture, or of a kind such as HEIC or TIFF that only ` +
        "the API reads.",
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
 * @param {(files: File[]) => void} chosen called with at least one file
 */
export function listenForPictures(input, zone, chosen) {
  /** @param {FileList|undefined|null} files @returns {boolean} whether there are any */
  const offer = (files) => {
    if (!files?.length) return false;
    chosen([...files]);
    return true;
  };
  input.addEventListener("change", () => {
    offer(input.files);
    // So that choosing the same file again is a change.
    input.value = "";
  });
  document.addEventListener("paste", (event) => {
    if (offer(event.clipboardData?.files)) event.preventDefault();
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
    offer(event.dataTransfer?.files);
  });
}
