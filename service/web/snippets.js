/** The shown request as a command or program to copy. */

import { addressOf, hasKey, textFields } from "./api.js";

/** @typedef {import("./api.js").Question} Question */

/**
 * @param {import("./heatmap.js").Look & {threshold: number}} look
 * @param {import("./api.js").Settings} settings
 */
const outputOf = ({ opacity, colormap, regions, threshold }, { normalize, trust }) => ({
  heatmap: "none",
  colormap,
  alpha: opacity,
  normalize,
  regions_threshold: regions ? threshold : null,
  ...(trust && { trust }),
});

/**
 * @param {Question} question
 * @param {import("./heatmap.js").Look & {threshold: number}} look
 */
export function asCurl(question, look) {
  const { picture, settings } = question;
  const quoted = `"${picture.name.replace(/["\\]/g, "\\$&")}"`;
  const parts = [`curl -sS --fail-with-body ${shell(addressOf("explain"))}`];
  if (hasKey()) parts.push('-H "Authorization: Bearer $LEGRAD_API_KEY"');
  parts.push(`-F ${shell(`image=@${quoted}`)}`);
  for (const [name, value] of textFields(question, outputOf(look, settings))) {
    parts.push(`--form-string ${shell(`${name}=${value}`)}`);
  }
  parts.push("-o answer.json");
  const fetched = picture.address
    ? `curl -sS -o ${shell(picture.name)} ${shell(picture.address)}\n`
    : "";
  return `${fetched}${parts.join(" \\\n  ")}\n`;
}

/**
 * @param {Question} question
 * @param {import("./heatmap.js").Look & {threshold: number}} look
 */
export function asPython(question, look) {
  const { picture, prompts, settings } = question;
  // Prompts whose words are asked for are targets, among the other fields.
  const plain = settings.words ? [] : prompts;
  const others = textFields({ ...question, prompts: settings.words ? prompts : [] }, outputOf(look, settings));
  const data = [
    ...(plain.length ? [`        "prompts": [${plain.map(python).join(", ")}],`] : []),
    ...others.map(([name, value]) => `        ${python(name)}: ${python(value)},`),
  ];
  const key = hasKey()
    ? '    headers={"Authorization": f"Bearer {os.environ[\'LEGRAD_API_KEY\']}"},\n'
    : "";
  const source = picture.address
    ? `httpx.get(${python(picture.address)}).content`
    : `Path(${python(picture.name)}).read_bytes()`;
  return `import base64
${key ? "import os\n" : ""}from pathlib import Path

import httpx

picture = ${source}
response = httpx.post(
    ${python(addressOf("explain"))},
${key}    files={"image": picture},
    data={
${data.join("\n")}
    },
    timeout=60,
)
response.raise_for_status()
for target in response.json()["images"][0]["targets"]:
    name = ${settings.heads ? `f"{target['target']}, head {target['head']}"` : 'target["target"]'}
    print(name, round(target["similarity"], 2), target["statistics"]["peak_position"])
    ending = target["overlay_type"].partition("/")[2]
    Path(f"{name.replace('/', ' ')}.{ending}").write_bytes(base64.b64decode(target["overlay"]))
`;
}

/** @param {string} text */
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A JSON string is a valid Python string. @param {string} text */
const python = (text) => JSON.stringify(text);
