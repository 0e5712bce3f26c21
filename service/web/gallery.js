/** The example pictures, to explain by one click. */

import { byId, make } from "./dom.js";

/** Show the gallery with titles and credits. @param {any[]} examples @param {(example: any) => void} chosen */
export function showGallery(examples, chosen) {
  byId("gallery").replaceChildren(
    ...examples.map((example) => {
      const button = make(
        "button",
        { type: "button", className: "example" },
        make("img", {
          src: `web/gallery/${example.file}`,
          alt: example.alt,
          width: 720,
          height: 480,
        }),
        make("span", { className: "example-title" }, example.title),
        make("span", { className: "quiet" }, example.prompts.join(", ")),
      );
      button.addEventListener("click", () => chosen(example));
      return make("li", {}, button);
    }),
  );
  byId("credits").replaceChildren(
    ...examples
      .filter(({ credit }) => credit)
      .map(({ title, credit }) => make("li", {}, `${title}. ${credit}`)),
  );
}
