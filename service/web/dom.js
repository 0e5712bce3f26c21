/** Small helpers for the document. */

/**
 * The element with this id; it is in index.html.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {Partial<HTMLElementTagNameMap[Name]>} [properties]
 * @param {...(Node|string)} children
 * @returns {HTMLElementTagNameMap[Name]}
 */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/**
 * Fills a list of choices; keeps the present one where it is still offered.
 * @param {HTMLSelectElement} select
 * @param {[string, string][]} choices value and text
 */
export function offer(select, choices) {
  const before = select.value;
  select.replaceChildren(...choices.map(([value, text]) => make("option", { value }, text)));
  if (choices.some(([value]) => value === before)) select.value = before;
}

/** Lets a person keep a file. @param {Blob} blob @param {string} name */
export function save(blob, name) {
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: name }).click();
  // Not at once: the download begins after this turn.
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
