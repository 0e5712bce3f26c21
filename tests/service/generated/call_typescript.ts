/*
 * Call every operation of a server by the types in contract.ts, which openapi-typescript generates.
 *
 * Arguments: the server's address, a key, a model, the file of a picture.
 * Prints the status of each call as JSON.
 */

import { readFile } from "node:fs/promises";
import createClient, { type Middleware } from "openapi-fetch";
import type { components, paths } from "./contract.js";

type Options = components["schemas"]["ExplainOptions"];

const [address, key, model, file] = process.argv.slice(2);
const client = createClient<paths>({
  baseUrl: address,
  headers: { Authorization: `Bearer ${key}` },
});
const answers: [string, number][] = [];
const noting: Middleware = {
  onResponse({ request, response, schemaPath }) {
    answers.push([`${request.method} ${schemaPath}`, response.status]);
  },
};
client.use(noting);

const bytes = await readFile(file);
const picture = new Blob([bytes], { type: "image/png" });
const image = bytes.toString("base64");
// Those with a default are required in answers, and so in the generated types.
const options: Options = { layers: 1, fit: "pad", cache: true, method: "legrad", heads: "mean" };
const output = {
  heatmap: "none",
  overlay: false,
  colormap: "turbo",
  alpha: 0.5,
  normalize: "each",
  regions_threshold: null,
  max_side: 512,
  format: "webp",
  quality: 70,
  layers_report: false,
} as const;
const path = { model_id: model };

/** Send parts as browsers do: JSON as a blob, which has a file name. */
function form(parts: unknown): FormData {
  const body = new FormData();
  for (const [name, value] of Object.entries(parts as Record<string, unknown>)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each instanceof Blob || typeof each === "string") body.append(name, each);
      else body.append(name, new Blob([JSON.stringify(each)], { type: "application/json" }));
    }
  }
  return body;
}

/** Return an answer in JSON; routes that have other types too are typed as both. */
function json<Answer>(data: Answer | string | undefined): Answer {
  if (data === undefined || typeof data === "string") throw new Error("No JSON was answered.");
  return data;
}

function check(holds: boolean | undefined): void {
  if (!holds) throw new Error(`Not as expected after ${JSON.stringify(answers.at(-1))}.`);
}

const explained = await client.POST("/explain", {
  body: { image, prompts: ["a cat"], targets: [{ type: "text", text: "a dog", words: false }], options, output },
});
const targets = json(explained.data).images[0].targets;
check(targets.length === 2);
const sent = await client.POST("/explain", {
  body: {
    // Generated types have files as strings.
    image: [picture as unknown as string],
    prompts: ["a cat"],
    targets: [{ type: "text", text: "a dog", words: false }],
    options,
    output,
  },
  bodySerializer: form,
});
check(json(sent.data).images[0].targets[1].similarity === targets[1].similarity);
const drawn = await client.POST("/explain", {
  body: { image, prompts: ["a cat"] },
  headers: { Accept: "image/png" },
  parseAs: "blob",
});
check((drawn.data as unknown as Blob).type === "image/png");
const answer = await client.POST("/explain", {
  body: { image, prompts: ["a cat"] },
  headers: { Accept: "multipart/form-data" },
  parseAs: "stream",
});
const shown = await new Response(answer.data as unknown as ReadableStream, {
  headers: { "Content-Type": answer.response.headers.get("Content-Type") ?? "" },
}).formData();
check((shown.get("images.0.targets.0.overlay") as File).type === "image/jpeg");
const progress = await client.GET("/explain/{request_id}/progress", {
  params: { path: { request_id: json(explained.data).request_id } },
});
check(progress.data?.stage === "unknown");

check((await client.GET("/models")).data?.models[0].id === model);
check((await client.GET("/models/{model_id}", { params: { path } })).data?.state === "ready");
await client.GET("/models/{model_id}/ready", { params: { path } });
const search = { search: "cat", limit: 5 };
const classes = await client.GET("/models/{model_id}/classes", { params: { path, query: search } });
check(classes.data?.classes.length === 0);
await client.GET("/health/live");
await client.GET("/health/ready");
await client.GET("/metrics", { parseAs: "text" });

await client.GET("/v1/models");
await client.GET("/v1/models/{model_id}", { params: { path } });
const instances = await client.POST("/v1/models/{model_id}:explain", {
  params: { path },
  body: { instances: [{ image: { b64: image }, prompts: ["a cat"], options, output }] },
});
check(instances.data?.explanations[0].targets[0].prompt === "a cat");

await client.GET("/v2");
await client.GET("/v2/health/live");
await client.GET("/v2/health/ready");
const inputs = [
  { name: "IMAGE", shape: [1], datatype: "BYTES", data: [image] },
  { name: "TEXT", shape: [1], datatype: "BYTES", data: ["a cat"] },
];
const versioned = { ...path, version: "1" } as const;
await client.GET("/v2/models/{model_id}", { params: { path } });
await client.GET("/v2/models/{model_id}/ready", { params: { path } });
await client.POST("/v2/models/{model_id}/infer", { params: { path }, body: { inputs } });
await client.GET("/v2/models/{model_id}/versions/{version}", { params: { path: versioned } });
await client.GET("/v2/models/{model_id}/versions/{version}/ready", { params: { path: versioned } });
const inferred = await client.POST("/v2/models/{model_id}/versions/{version}/infer", {
  params: { path: versioned },
  body: { inputs },
});
check(json(inferred.data).outputs[1].name === "SIMILARITY");

await client.GET("/ping");
const query = { prompts: ["a cat", "a dog"], options: JSON.stringify(options) };
const raw = {
  params: { path, query },
  body: picture as unknown as string,
  bodySerializer: () => picture,
  headers: { "Content-Type": "application/octet-stream" },
};
const first = { ...path, version: "1.0" } as const;
const answered = await client.POST("/explanations/{model_id}", raw);
check(answered.data?.targets.length === 2);
await client.PUT("/explanations/{model_id}", raw);
const parts = {
  params: { path: first },
  body: { data: picture as unknown as string, prompts: ["a cat"], options },
  bodySerializer: form,
};
await client.POST("/explanations/{model_id}/{version}", parts);
await client.PUT("/explanations/{model_id}/{version}", parts);

const wait = { params: { path, query: { wait_seconds: 30 } } };
check((await client.DELETE("/models/{model_id}", wait)).data?.state === "unloaded");
check((await client.POST("/models/{model_id}/load", wait)).data?.state === "ready");

console.log(JSON.stringify(answers));
