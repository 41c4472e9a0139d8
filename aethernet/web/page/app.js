// The page itself: taking images, showing progress and the result. The work is done by worker.js.

const $ = (id) => document.getElementById(id);
const MOST_SHOWN = 16e6; // output pixels; a larger result is shown smaller, the file is always whole
const HARD_STOP = 2000; // milliseconds that a tile may go on after "cancel" before the worker is ended

// --- isolation: several threads need two headers, which a service worker adds where the server does not ---------------

async function isolate() {
  const tried = "aethernet-isolation";
  if (window.crossOriginIsolated || !("serviceWorker" in navigator) || !window.isSecureContext) return;
  if (sessionStorage.getItem(tried)) return; // it did not help; one thread does as well
  try {
    await navigator.serviceWorker.register("isolation.js");
    await navigator.serviceWorker.ready;
    sessionStorage.setItem(tried, "yes");
    location.reload();
    await new Promise(() => {});
  } catch {
    // A browser that refuses (private windows of some) works with one thread.
  }
}

// --- the worker -------------------------------------------------------------------------------------------------------

let worker = null;
let busy = null; // the request that is being worked on
let requests = 0;

function startWorker() {
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => receive(data);
  worker.onerror = (event) => {
    event.preventDefault();
    worker.terminate();
    worker = null; // the next request starts another one
    const reason = event.message || "it could not be loaded, or this browser is too old for it";
    busy.reject(new Error(`The page's worker stopped: ${reason}. Reload the page; if that does not help, use a newer browser.`));
  };
  return ask("start");
}

async function ask(kind, content = {}, transfer = []) {
  if (!worker) await startWorker();
  const id = ++requests;
  return new Promise((resolve, reject) => {
    busy = { id, resolve, reject };
    worker.postMessage({ kind, id, ...content }, transfer);
  });
}

function receive(data) {
  if (data.kind === "note") $("status").textContent = data.text;
  else if (data.kind === "chosen") showChoice(data);
  else if (data.kind === "size") startResult(data);
  else if (data.kind === "progress") showProgress(data);
  else if (data.kind === "band") drawBand(data);
  else if (data.id === busy?.id && data.kind === "done") busy.resolve(data.result);
  else if (data.id === busy?.id && data.kind === "failed") busy.reject(Object.assign(new Error(data.message), { cancelled: data.cancelled }));
}

// --- state ------------------------------------------------------------------------------------------------------------

const state = { working: false, cancelled: false, name: "image", ways: [], shown: 1, url: null, line: "" };

function work() {
  state.working = true;
  state.cancelled = false;
  document.body.dataset.state = "working";
  $("error").hidden = true;
  $("cancel").hidden = false;
  $("progress").hidden = false;
  $("progress").removeAttribute("value");
  for (const one of document.querySelectorAll("[data-idle]")) one.disabled = true;
}

function finish() {
  state.working = false;
  if (document.body.dataset.state === "working") document.body.dataset.state = "ready";
  $("cancel").hidden = true;
  $("progress").hidden = true;
  for (const one of document.querySelectorAll("[data-idle]")) one.disabled = false;
}

function fail(message, cancelled = false) {
  if (cancelled) {
    document.body.dataset.state = "cancelled";
    $("status").textContent = "Cancelled. Nothing was kept.";
    return;
  }
  document.body.dataset.state = "failed";
  $("status").textContent = "";
  $("error").textContent = message;
  $("error").hidden = false;
}

const wanted = () => $("way").value;

// --- an image comes in ------------------------------------------------------------------------------------------------

/** @param {Blob} file */
async function take(file, name = file.name || "pasted image") {
  if (state.working) return;
  if (file.type.startsWith("video/") || /\.(mp4|m4v|mov|webm|mkv|ogv)$/i.test(name)) return openVideo(file, name);
  closeVideo();
  await enlarge(file, name);
}

/** @param {Blob | ImageBitmap} source */
async function enlarge(source, name) {
  work();
  state.name = name.replace(/\.[^.]*$/, "");
  $("result").hidden = true;
  $("status").textContent = `Opening ${name} …`;
  try {
    await showOriginal(source);
    if (state.cancelled) throw cancellation();
    const tile = Number(new URLSearchParams(location.search).get("tile")) || 0;
    const result = await ask("upscale", { source, wanted: wanted(), tile });
    showResult(result);
  } catch (error) {
    $("result").hidden = true;
    fail(error.message, error.cancelled);
  }
  finish();
}

async function showOriginal(source) {
  let bitmap;
  try {
    bitmap = source instanceof Blob ? await createImageBitmap(source) : source;
  } catch {
    throw new Error("This browser cannot open the file as an image. Try a JPEG, PNG, WebP or AVIF file.");
  }
  const scale = Math.min(1, Math.sqrt(MOST_SHOWN / (bitmap.width * bitmap.height)));
  const canvas = $("before");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  if (bitmap !== source) bitmap.close();
}

// --- progress and result ----------------------------------------------------------------------------------------------

function duration(seconds) {
  if (seconds < 1) return "less than a second";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return `${Math.round(seconds / 60)} min`;
}

function showChoice({ way, why, notes }) {
  $("choice").textContent = `Runs with ${way.title} (${way.device}), because ${why}.`;
  $("choice-notes").replaceChildren(...notes.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
}

function startResult({ width, height, tiles }) {
  state.shown = Math.min(1, Math.sqrt(MOST_SHOWN / (width * height)));
  state.size = { width, height };
  const canvas = $("after");
  canvas.width = Math.max(1, Math.round(width * state.shown));
  canvas.height = Math.max(1, Math.round(height * state.shown));
  $("progress").max = tiles;
  $("progress").value = 0;
  $("status").textContent = `Enlarging to ${width}×${height} pixels: ${tiles} ${tiles === 1 ? "tile" : "tiles"} …`;
  $("result").hidden = false;
  $("download").hidden = true;
  setZoom($("zoom").value);
  setLine($("line").value);
  $("result").scrollIntoView({ block: "nearest" });
}

function showProgress({ done, total, left }) {
  $("progress").max = total;
  $("progress").value = done;
  $("status").textContent = `Tile ${done} of ${total}${done < total ? `, about ${duration(left)} left` : ", finishing the file"} …`;
}

async function drawBand({ top, rows, width, pixels }) {
  const data = new ImageData(pixels, width, rows);
  const context = $("after").getContext("2d");
  if (state.shown === 1) context.putImageData(data, 0, top);
  else {
    const part = await createImageBitmap(data);
    context.drawImage(part, 0, top * state.shown, width * state.shown, rows * state.shown);
    part.close();
  }
}

function showResult({ blob, seconds, tiles, width, height, way, why, notes }) {
  showChoice({ way, why, notes });
  if (state.url) URL.revokeObjectURL(state.url);
  state.url = URL.createObjectURL(blob);
  const link = $("download");
  link.href = state.url;
  link.download = `${state.name}_${document.body.dataset.scale}x.png`;
  link.textContent = `Download PNG (${width}×${height}, ${(blob.size / 1e6).toFixed(1)} MB)`;
  link.hidden = false;
  const smaller = state.shown < 1 ? " It is shown smaller here; the file is whole." : "";
  $("status").textContent = `Done in ${duration(seconds)}: ${width}×${height} pixels, ${tiles} ${tiles === 1 ? "tile" : "tiles"}.${smaller}`;
  document.body.dataset.state = "done";
}

// --- the viewer -------------------------------------------------------------------------------------------------------

function setLine(percent) {
  $("line").value = percent;
  $("stack").style.setProperty("--at", `${percent}%`);
}

function setZoom(zoom) {
  const stack = $("stack");
  if (!state.size) return;
  const frame = $("frame");
  const at = [frame.scrollLeft + frame.clientWidth / 2, frame.scrollTop + frame.clientHeight / 2];
  const before = stack.clientWidth || 1;
  const { width, height } = state.size;
  // All of it to be seen; small images are shown larger than they are, but not huge.
  const fit = `min(100%, ${(70 * width) / height}vh, ${Math.max(width, 640)}px)`;
  stack.style.width = zoom === "fit" ? fit : `${(width * Number(zoom)) / (window.devicePixelRatio || 1)}px`;
  stack.classList.toggle("sharp", zoom !== "fit" && Number(zoom) > 1);
  const grown = stack.clientWidth / before;
  frame.scrollTo(at[0] * grown - frame.clientWidth / 2, at[1] * grown - frame.clientHeight / 2);
}

function stepZoom(step) {
  const select = $("zoom");
  select.selectedIndex = Math.max(0, Math.min(select.options.length - 1, select.selectedIndex + step));
  setZoom(select.value);
}

// --- video ------------------------------------------------------------------------------------------------------------

function openVideo(file, name) {
  closeVideo();
  const player = $("player");
  state.videoName = name;
  player.src = URL.createObjectURL(file);
  player.onerror = () => {
    closeVideo();
    fail("This browser cannot play the video. Try an MP4 (H.264) or WebM file, or save a frame as an image.");
  };
  $("video").hidden = false;
  document.body.dataset.state = "video";
  $("status").textContent = "Go to the frame that you want to enlarge.";
  $("use-frame").focus();
}

function closeVideo() {
  const player = $("player");
  player.onerror = null;
  if (player.src) URL.revokeObjectURL(player.src);
  player.removeAttribute("src");
  $("video").hidden = true;
}

async function useFrame() {
  const player = $("player");
  if (!player.videoWidth) return fail("The video has no frame to show yet. Wait until it is loaded, then try again.");
  player.pause();
  const frame = await createImageBitmap(player);
  await enlarge(frame, `${state.videoName.replace(/\.[^.]*$/, "")} ${player.currentTime.toFixed(2)} s.png`);
}

// --- the check --------------------------------------------------------------------------------------------------------

async function verify() {
  work();
  $("report").hidden = true;
  try {
    const { results } = await ask("verify", { wanted: wanted() });
    const good = results.filter((one) => !one.skipped);
    const lines = results.map(describe);
    state.line = `${document.body.dataset.release} | ${browserName()} | ${lines.join(" | ")}`;
    $("report-line").value = state.line;
    $("report").hidden = false;
    const wrong = good.filter((one) => !one.ok);
    document.body.dataset.state = wrong.length || !good.length ? "wrong" : "verified";
    $("status").textContent = wrong.length
      ? `${wrong.map((one) => one.way.title).join(" and ")} does not compute what this release states, and will not be used automatically.`
      : good.length ? "Verified: this browser computes what the release states." : "Nothing could be checked here.";
  } catch (error) {
    fail(error.message, error.cancelled);
  }
  finish();
}

function describe({ way, ok, skipped, summary, ms }) {
  if (skipped) return `${way.title}: not run (${skipped})`;
  return `${way.title} (${way.device}): ${ok ? "correct" : "WRONG"}, ${summary}${ms === undefined ? "" : `, ${ms.toFixed(0)} ms`}`;
}

function browserName() {
  const data = navigator.userAgentData;
  const brand = data?.brands?.find(({ brand }) => !/not.?a.?brand/i.test(brand));
  return brand ? `${brand.brand} ${brand.version}, ${data.platform}` : navigator.userAgent;
}

async function copyReport() {
  const field = $("report-line");
  try {
    await navigator.clipboard.writeText(field.value);
  } catch {
    field.select();
    document.execCommand("copy"); // where the page may not write to the clipboard by itself
  }
  $("copied").textContent = "Copied.";
}

// --- wiring -----------------------------------------------------------------------------------------------------------

function fillWays({ ways, threads, isolated }) {
  state.ways = ways;
  for (const way of ways) {
    const option = new Option(way.reason ? `${way.title} (not available)` : way.title, way.id);
    option.disabled = Boolean(way.reason);
    option.title = way.reason;
    $("way").append(option);
  }
  const asked = new URLSearchParams(location.search).get("run");
  if (ways.some((way) => way.id === asked)) $("way").value = asked;
  const card = ways.find((way) => way.provider === "webgpu");
  const reasons = [...new Set(ways.map((way) => way.reason).filter(Boolean))].map((reason) => {
    const titles = ways.filter((way) => way.reason === reason).map((way) => way.title);
    return `${titles.join(" and ")} cannot be used: ${reason}.`;
  });
  const parts = [
    card && !card.reason ? `Graphics card: ${card.device}.` : "",
    `Processor: ${threads} ${threads === 1 ? "thread" : "threads"}${isolated ? "" : ", because this page is not isolated from others"}.`,
    ...reasons,
  ];
  $("choice").textContent = parts.filter(Boolean).join(" ");
}

const cancellation = () => Object.assign(new Error("cancelled"), { cancelled: true });

async function cancel() {
  const current = busy;
  state.cancelled = true;
  worker?.postMessage({ kind: "cancel" });
  $("status").textContent = "Cancelling …";
  await new Promise((resolve) => setTimeout(resolve, HARD_STOP));
  if (!state.working || busy !== current) return;
  // A single tile takes longer than anybody waits: end the worker in the middle of it.
  worker.terminate();
  current.reject(cancellation());
  worker = null; // the next request starts another one
}

function wire() {
  const file = $("file");
  $("choose").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files.length) take(file.files[0]);
    file.value = "";
  });
  for (const type of ["dragenter", "dragover"])
    document.addEventListener(type, (event) => {
      event.preventDefault();
      $("drop").classList.add("over");
    });
  for (const type of ["dragleave", "drop"])
    document.addEventListener(type, (event) => {
      event.preventDefault();
      if (type === "drop" || !event.relatedTarget) $("drop").classList.remove("over");
    });
  document.addEventListener("drop", (event) => {
    const dropped = event.dataTransfer?.files?.[0];
    if (dropped) take(dropped);
    else fail("What was dropped is not a file. Save the image first, then drop the file.");
  });
  document.addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])][0];
    if (pasted) take(pasted);
  });
  for (const button of document.querySelectorAll("[data-sample]"))
    button.addEventListener("click", async () => {
      if (state.working) return;
      try {
        const response = await fetch(button.dataset.sample);
        if (!response.ok) throw new Error(`The sample could not be loaded (${response.status}). Reload the page.`);
        await take(await response.blob(), button.dataset.sample.split("/").at(-1));
      } catch (error) {
        fail(error.message);
      }
    });
  $("cancel").addEventListener("click", cancel);
  $("line").addEventListener("input", () => setLine($("line").value));
  $("zoom").addEventListener("change", () => setZoom($("zoom").value));
  $("closer").addEventListener("click", () => stepZoom(1));
  $("farther").addEventListener("click", () => stepZoom(-1));
  $("verify").addEventListener("click", verify);
  $("copy").addEventListener("click", copyReport);
  $("use-frame").addEventListener("click", useFrame);
  const handle = $("handle");
  handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
  handle.addEventListener("pointermove", (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const box = $("stack").getBoundingClientRect();
    setLine(Math.max(0, Math.min(100, (100 * (event.clientX - box.left)) / box.width)));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.working) cancel();
    const writing = /^(input|select|textarea)$/i.test(event.target.tagName ?? "");
    if (writing || event.ctrlKey || event.metaKey || event.altKey || $("result").hidden) return;
    if (event.key === "+" || event.key === "=") stepZoom(1);
    else if (event.key === "-") stepZoom(-1);
  });
}

await isolate();
$("late").remove();
wire();
try {
  fillWays(await startWorker());
  document.body.dataset.state = "ready";
  $("status").textContent = "Ready. Your image stays on this device.";
  for (const one of document.querySelectorAll("[data-idle]")) one.disabled = false;
} catch (error) {
  fail(error.message);
}
