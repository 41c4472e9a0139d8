// Everything that takes time: choosing how to run the network, checking it, and running it tile by tile.
// The page (app.js) sends one message at a time and gets `{kind: "done", result}` or `{kind: "failed", message}`,
// with notes, progress and finished bands in between. `cancel` may come at any time.

import { PngWriter } from "./png.js";
import { fillHidden, readPixels } from "./pixels.js";
import { bands, countTiles, cutOf, floorOf, sizeTiles } from "./tiles.js";

const WORTH = 1.2; // times faster than fp32 int8 has to be before it is chosen unasked, as in aethernet/upscale
const OVERLAP_COST = 1.4;
const LUMA = [0.299, 0.587, 0.114]; // BT.601
const MOST_THREADS = 8;

class Cancelled extends Error {}

let site = null;
let ways = null;
let cancelled = false;
const modules = {}; // provider -> the onnxruntime-web build for it
const sessions = {}; // way -> an open session
const passed = {}; // way -> the result of its check

const post = (kind, content = {}, transfer = []) => self.postMessage({ kind, ...content }, transfer);
const note = (text) => post("note", { text });

// --- files -----------------------------------------------------------------------------------------------------------

/** A file of this site, refused where its content is not what the release says. */
async function load(path, sha256, { gzip = false } = {}) {
  if (!self.crypto?.subtle)
    throw new Error("The files of this release can only be checked on a secure address. Open this page through https:// or on http://localhost.");
  let response;
  try {
    response = await fetch(path);
  } catch {
    response = { ok: false, status: "no answer" };
  }
  if (!response.ok) throw new Error(`${path} could not be loaded (${response.status}). Check your connection and reload the page.`);
  let bytes = await response.arrayBuffer();
  const [first, second] = new Uint8Array(bytes);
  if (gzip && first === 0x1f && second === 0x8b)
    // Some servers unpack such files on the way.
    bytes = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== sha256)
    throw new Error(`${path} is not the file of this release: expected sha256 ${sha256.slice(0, 16)}…, found ${found.slice(0, 16)}…. It was not used. Reload the page; if that does not help, tell whoever runs this site.`);
  return bytes;
}

// --- ways to run the network -----------------------------------------------------------------------------------------

/** Every way to run the release here, best first, those that cannot be used with the reason. */
async function findWays() {
  site = await (await fetch("site.json", { cache: "no-cache" })).json();
  let adapter = null;
  let why = "this browser has no WebGPU";
  if (self.navigator.gpu)
    try {
      adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
      why = adapter ? "" : "WebGPU found no graphics card that it can use";
    } catch (error) {
      why = `WebGPU cannot be used: ${error.message}`;
    }
  const info = adapter?.info ?? {};
  const card = [info.vendor, info.architecture, info.device, info.description].filter(Boolean).join(" ") || "unnamed";
  const software = Boolean(adapter?.isFallbackAdapter || info.isFallbackAdapter || /swiftshader|llvmpipe|basic render/i.test(card));
  const half =
    why ||
    (adapter.features.has("shader-f16") ? "" : "this graphics card cannot compute in fp16 (no shader-f16)") ||
    (self.Float16Array ? "" : "this browser has no 16-bit numbers");
  const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;
  const cpu = `WebAssembly, ${threads} ${threads === 1 ? "thread" : "threads"}`;
  const single = self.crossOriginIsolated ? "" : " (one thread, because the page is not isolated from others)";
  const offered = [
    { id: "webgpu-fp16", provider: "webgpu", precision: "fp16", reason: half, device: card, software },
    { id: "webgpu-fp32", provider: "webgpu", precision: "fp32", reason: why, device: card, software },
    { id: "wasm-int8", provider: "wasm", precision: "int8", reason: "", device: cpu, threads, single },
    { id: "wasm-fp32", provider: "wasm", precision: "fp32", reason: "", device: cpu, threads, single },
  ];
  ways = offered
    .filter((way) => site.files[way.precision])
    .map((way) => ({ ...way, title: `${way.provider === "webgpu" ? "WebGPU" : "WebAssembly"}, ${way.precision}` }));
  return { ways, threads, isolated: Boolean(self.crossOriginIsolated) };
}

async function runtimeFor(way) {
  if (modules[way.provider]) return modules[way.provider];
  note(`Loading ONNX Runtime Web for ${way.provider === "webgpu" ? "WebGPU" : "WebAssembly"} …`);
  const files = site.runtime[way.provider];
  const binary = await load(files.binary.path, files.binary.sha256, { gzip: true });
  const ort = await import(`./${files.module}`);
  ort.env.wasm.wasmBinary = binary;
  ort.env.wasm.wasmPaths = new URL("ort/", import.meta.url).href;
  ort.env.wasm.numThreads = way.threads ?? 1;
  ort.env.logLevel = "error";
  if (way.provider === "webgpu") ort.env.webgpu.powerPreference = "high-performance";
  modules[way.provider] = ort;
  return ort;
}

async function open(way) {
  if (sessions[way.id]) return sessions[way.id];
  const ort = await runtimeFor(way);
  const file = site.files[way.precision];
  note(`Loading ${file.path.split("/").at(-1)} …`);
  const model = await load(file.path, file.sha256);
  const session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: [way.provider] });
  sessions[way.id] = { ort, session, half: way.precision === "fp16", title: way.title };
  return sessions[way.id];
}

async function close(way) {
  await sessions[way.id]?.session.release();
  delete sessions[way.id];
}

/** The way that is asked for, else the best that passes its check; why it was taken. */
async function choose(wanted) {
  const notes = [];
  if (wanted !== "auto") {
    const way = ways.find((one) => one.id === wanted);
    if (!way) throw new Error(`This release cannot be run in the way '${wanted}'. Choose another one.`);
    if (way.reason) throw new Error(`${way.title} cannot be used: ${way.reason}. Choose another way.`);
    const result = await checkOnce(way);
    if (!result.ok) throw new Error(`${way.title} computes another image here (${result.summary}), so it is not used. Choose another way.`);
    return { way, why: "chosen by you", notes };
  }
  for (const way of ways.filter((one) => one.provider === "webgpu")) {
    const reason = way.reason || (way.software ? "its graphics card is imitated in software, which is slow" : "");
    if (reason) {
      notes.push(`${way.title} is not used: ${reason}.`);
      continue;
    }
    try {
      const result = await checkOnce(way);
      if (result.ok) return { way, why: "it is the fastest way here, and computed the release's check image correctly", notes };
      notes.push(`${way.title} is not used: it computes another image here (${result.summary}).`);
    } catch (error) {
      notes.push(`${way.title} is not used: ${error.message}`);
    }
    await close(way);
  }
  const good = [];
  for (const way of ways.filter((one) => one.provider === "wasm")) {
    let problem;
    try {
      const result = await checkOnce(way);
      if (result.ok) {
        good.push({ way, ms: (await runCheck(way)).ms }); // the first run also warmed up
        continue;
      }
      problem = `it computes another image here (${result.summary}).`;
    } catch (error) {
      problem = error.message;
    }
    notes.push(`${way.title} is not used: ${problem}`);
  }
  if (!good.length) throw new Error(`This browser cannot run the network. ${notes.join(" ")}`);
  const exact = good.find(({ way }) => way.precision === "fp32") ?? good[0];
  const fast = good.find(({ way }) => way.precision === "int8");
  const taken = fast && fast.ms * WORTH <= exact.ms ? fast : exact;
  for (const { way } of good) if (way !== taken.way) await close(way);
  const others = good.filter((one) => one !== taken).map((one) => `${one.way.precision} took ${Math.round(one.ms)} ms`);
  const measured = `a ${site.check.width}×${site.check.height} image took ${Math.round(taken.ms)} ms${others.length ? `, ${others.join(", ")}` : ""}`;
  const single = taken.way.single ?? "";
  return { way: taken.way, why: `it runs on your processor${single}: ${measured}`, notes };
}

// --- the network -----------------------------------------------------------------------------------------------------

/** Size the network takes that holds a window; see SizeRequirements.fit in aethernet. */
function fittingSize(height, width) {
  const { fixed, minimum, multiple, square } = site.network.size;
  if (fixed) return fixed;
  const [tall, wide] = [height, width].map((side) => Math.ceil(Math.max(side, minimum) / multiple) * multiple);
  return square ? [Math.max(tall, wide), Math.max(tall, wide)] : [tall, wide];
}

/** Mirrored as far as the image reaches, then its border repeated. */
function continued(index, length) {
  if (index < length) return index;
  return index < 2 * length - 1 ? 2 * length - 2 - index : 0;
}

/** Run planes of c × h × w values in [0, 1] through the network; c × s·h × s·w values. */
async function runNetwork({ ort, session, half, title }, planes, height, width) {
  const channels = site.network.channels;
  const [tall, wide] = fittingSize(height, width);
  let given = planes;
  if (tall !== height || wide !== width) {
    given = new Float32Array(channels * tall * wide);
    for (let channel = 0; channel < channels; channel++)
      for (let y = 0; y < tall; y++)
        for (let x = 0; x < wide; x++)
          given[(channel * tall + y) * wide + x] =
            planes[(channel * height + continued(y, height)) * width + continued(x, width)];
  }
  const input = half
    ? new ort.Tensor("float16", new Float16Array(given), [1, channels, tall, wide])
    : new ort.Tensor("float32", given, [1, channels, tall, wide]);
  let output, values;
  try {
    output = (await session.run({ [session.inputNames[0]]: input }))[session.outputNames[0]];
    values = await output.getData();
  } catch (error) {
    const said = String(error?.message ?? error);
    throw new Error(`${title} stopped (${said.slice(0, 300)}). Choose another way under “How it runs here”, or a smaller image.`);
  }
  if (half) values = Float32Array.from(values instanceof Uint16Array ? new Float16Array(values.buffer, values.byteOffset, values.length) : values);
  input.dispose();
  output.dispose();
  if (tall === height && wide === width) return values;
  const { scale } = site.network;
  const kept = new Float32Array(channels * height * scale * width * scale);
  for (let channel = 0; channel < channels; channel++)
    for (let y = 0; y < height * scale; y++) {
      const start = (channel * tall * scale + y) * wide * scale;
      kept.set(values.subarray(start, start + width * scale), (channel * height * scale + y) * width * scale);
    }
  return kept;
}

function finite(values) {
  for (let index = 0; index < values.length; index++) if (!Number.isFinite(values[index])) return false;
  return true;
}

/** The same, on another way where values are not finite. */
async function runSafely(opened, planes, height, width, tally) {
  const values = await runNetwork(opened, planes, height, width);
  if (finite(values)) return values;
  tally.redone += 1;
  const exact = await runNetwork(await open(ways.find((way) => way.id === "wasm-fp32")), planes, height, width);
  if (!finite(exact)) throw new Error("The network gave numbers that are not finite for this image, also in fp32. Try another image.");
  return exact;
}

/** Run one plane, or three, whatever the network's own channels are; as Upscaler._infer in aethernet. */
async function runPlanes(opened, planes, height, width, tally) {
  const area = height * width;
  const count = planes.length / area;
  const out = area * site.network.scale ** 2;
  if (site.network.channels === 1) {
    const result = new Float32Array(count * out);
    for (let plane = 0; plane < count; plane++)
      result.set(await runSafely(opened, planes.slice(plane * area, (plane + 1) * area), height, width, tally), plane * out);
    return result;
  }
  if (count === 3) return runSafely(opened, planes, height, width, tally);
  const tripled = new Float32Array(3 * area);
  for (let plane = 0; plane < 3; plane++) tripled.set(planes, plane * area);
  const values = await runSafely(opened, tripled, height, width, tally);
  const grey = new Float32Array(out);
  for (let at = 0; at < out; at++)
    grey[at] = values[at] * LUMA[0] + values[out + at] * LUMA[1] + values[2 * out + at] * LUMA[2];
  return grey;
}

/** Planes of a window, in [0, 1]. */
function windowOf({ width, rgba }, channels, top, bottom, left, right) {
  const wide = right - left;
  const area = (bottom - top) * wide;
  const planes = new Float32Array(channels.length * area);
  channels.forEach((channel, index) => {
    for (let y = top; y < bottom; y++)
      for (let x = left; x < right; x++)
        planes[index * area + (y - top) * wide + (x - left)] = rgba[4 * (y * width + x) + channel] / 255;
  });
  return planes;
}

/** Bytes that the network may take; less on small machines. */
function memoryBudget() {
  const gigabytes = navigator.deviceMemory ?? 4;
  return Math.min(1024, Math.max(256, gigabytes * 96)) * 2 ** 20;
}

function tileSize(height, width, half) {
  const fixed = site.network.size.fixed;
  const cut = cutOf(site.network);
  const smallest = fixed ?? [1, 1];
  const pixels = Math.floor(memoryBudget() / site.network.bytes_per_pixel[half ? "fp16" : "fp32"]);
  if (fixed) {
    if ((height > fixed[0] || width > fixed[1]) && Math.min(...fixed) < floorOf(cut))
      throw new Error(`This network takes images of ${fixed[1]}×${fixed[0]} pixels, which is too small to cut larger ones into tiles. Choose a smaller image.`);
    return { size: { height: Math.min(height, fixed[0]), width: Math.min(width, fixed[1]) }, cut, smallest };
  }
  return { size: sizeTiles(height, width, pixels, cut, cut.feather ? Infinity : OVERLAP_COST), cut, smallest };
}

/** Lets messages in (`cancel` among them). */
const breathe = () => new Promise((resolve) => setTimeout(resolve));

async function upscale({ source, wanted, tile }) {
  cancelled = false;
  note("Reading the image …");
  const image = await readPixels(source);
  if (image.alpha === "varying") fillHidden(image);
  const { way, why, notes } = await choose(wanted);
  post("chosen", { way, why, notes });
  const opened = await open(way);
  const { scale } = site.network;
  const { size, cut, smallest } = tileSize(image.height, image.width, opened.half);
  if (tile) Object.assign(size, { height: Math.min(image.height, tile), width: Math.min(image.width, tile) });
  const colour = image.grey ? [0] : [0, 1, 2];
  const varying = image.alpha === "varying";
  const channels = colour.length + (image.alpha === "opaque" ? 0 : 1);
  const tally = { redone: 0, tiles: 0 };
  let total = countTiles(image.height, image.width, size, cut, smallest);
  const began = performance.now();
  post("size", { width: image.width * scale, height: image.height * scale, tiles: total, tile: size });

  const infer = async (top, bottom, left, right) => {
    const [tall, wide] = [bottom - top, right - left];
    const area = tall * wide * scale ** 2;
    const result = new Float32Array(channels * area);
    result.set(await runPlanes(opened, windowOf(image, colour, top, bottom, left, right), tall, wide, tally));
    if (varying)
      result.set(await runPlanes(opened, windowOf(image, [3], top, bottom, left, right), tall, wide, tally), colour.length * area);
    else if (channels > colour.length) result.fill(image.rgba[3] / 255, colour.length * area);
    await breathe();
    if (cancelled) throw new Cancelled();
    return result;
  };
  const png = new PngWriter(image.width * scale, image.height * scale, channels);
  let row = 0;
  try {
    const options = {
      scale,
      cut,
      size,
      smallest,
      onTile: () => {
        tally.tiles += 1;
        const seconds = (performance.now() - began) / 1000;
        post("progress", { done: tally.tiles, total, seconds, left: (seconds / tally.tiles) * Math.max(0, total - tally.tiles) });
      },
      onHalved: (smaller) => {
        total = tally.tiles + Math.ceil(((image.height - row / scale) * image.width) / Math.max(1, (smaller.height - 2 * cut.margin) * (smaller.width - 2 * cut.margin)));
        note(`Memory ran out; going on with tiles of ${smaller.width}×${smaller.height} pixels.`);
      },
    };
    for await (const band of bands({ ...image, channels }, infer, options)) {
      await png.add(band);
      const pixels = toRgba(band, image.width * scale, channels);
      post("band", { top: row, rows: band.rows, width: image.width * scale, pixels }, [pixels.buffer]);
      row += band.rows;
    }
  } catch (error) {
    await png.abort();
    throw error;
  }
  const blob = await png.finish();
  const seconds = (performance.now() - began) / 1000;
  if (cut.feather && tally.tiles > 1) notes.push("This network looks at the whole image, which did not fit into memory: tiles were faded into each other and differ slightly from the whole.");
  if (tally.redone) notes.push(`${tally.redone} tiles were not finite and were computed again in fp32.`);
  return { blob, seconds, tiles: tally.tiles, way, why, notes, width: image.width * scale, height: image.height * scale };
}

/** Levels, channels × rows × width, as a canvas takes them. */
function toRgba({ rows, planes }, width, channels) {
  const area = rows * width;
  const pixels = new Uint8ClampedArray(4 * area);
  const alpha = channels % 2 ? -1 : channels - 1;
  for (let at = 0; at < area; at++) {
    for (let channel = 0; channel < 3; channel++)
      pixels[4 * at + channel] = planes[(channels < 3 ? 0 : channel) * area + at];
    pixels[4 * at + 3] = alpha < 0 ? 255 : planes[alpha * area + at];
  }
  return pixels;
}

// --- the check -------------------------------------------------------------------------------------------------------

let checkImages = null;

/** The release's check image through one way, held against the output that the release states. */
async function runCheck(way) {
  checkImages ??= Promise.all(
    [site.check.input, site.check.output].map(async ({ path, sha256 }) =>
      readPixels(new Blob([await load(path, sha256)], { type: "image/png" })),
    ),
  );
  const [input, expected] = await checkImages;
  const opened = await open(way);
  note(`Checking ${way.title} …`);
  const channels = site.network.channels === 1 ? [0] : [0, 1, 2];
  const planes = windowOf(input, channels, 0, input.height, 0, input.width);
  const began = performance.now();
  const found = await runNetwork(opened, planes, input.height, input.width);
  const ms = performance.now() - began;
  return { ...compare(found, expected, channels, site.check.limits[way.precision]), ms };
}

/** Differences in 8-bit levels, judged by the release's limits for this precision. */
function compare(found, expected, channels, limits) {
  const area = expected.width * expected.height;
  let [largest, equal, squares, bad] = [0, 0, 0, 0];
  channels.forEach((channel, index) => {
    for (let at = 0; at < area; at++) {
      const value = found[index * area + at];
      if (!Number.isFinite(value)) bad += 1;
      const level = Math.round(Math.min(1, Math.max(0, value)) * 255);
      const off = Math.abs(level - expected.rgba[4 * at + channel]);
      largest = Math.max(largest, off);
      squares += off * off;
      if (!off) equal += 1;
    }
  });
  const count = area * channels.length;
  const psnr = 10 * Math.log10((255 ** 2 * count) / squares);
  const ok =
    !bad &&
    (limits.max_level === null || largest <= limits.max_level) &&
    (limits.min_psnr === null || psnr >= limits.min_psnr);
  const share = ((100 * equal) / count).toFixed(2);
  const summary = bad
    ? `${bad} values are not finite`
    : `largest difference ${largest} of 255 levels, ${share} % equal, PSNR ${Number.isFinite(psnr) ? `${psnr.toFixed(1)} dB` : "infinite"}`;
  return { ok, largest, equal: equal / count, psnr, summary };
}

async function checkOnce(way) {
  passed[way.id] ??= await runCheck(way);
  return passed[way.id];
}

/** What the button does: every usable way, or the one that is asked for, measured anew. */
async function verify({ wanted }) {
  const results = [];
  for (const way of ways) {
    if (wanted !== "auto" && way.id !== wanted) continue;
    if (way.reason || (wanted === "auto" && way.software)) {
      results.push({ way, skipped: way.reason || "its graphics card is imitated in software; choose it by name to check it" });
      continue;
    }
    try {
      await runCheck(way); // loads and warms up
      passed[way.id] = await runCheck(way);
      results.push({ way, ...passed[way.id] });
    } catch (error) {
      results.push({ way, ok: false, summary: error.message });
    }
    await close(way);
  }
  return { results };
}

// --- messages --------------------------------------------------------------------------------------------------------

const handlers = { start: findWays, upscale, verify };
self.onmessage = async ({ data }) => {
  if (data.kind === "cancel") {
    cancelled = true;
    return;
  }
  try {
    post("done", { id: data.id, result: await handlers[data.kind](data) });
  } catch (error) {
    post("failed", { id: data.id, cancelled: error instanceof Cancelled, message: String(error?.message ?? error) });
  }
};
post("ready");
