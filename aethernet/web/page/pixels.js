// From an image file or a video's frame to upright pixels whose colours are not multiplied by their alpha.

const ROWS = 512; // read at a time
export const MOST_PIXELS = 64e6;

/**
 * Decode an image; the browser applies EXIF orientation and turns colour profiles into sRGB.
 *
 * @param {Blob | ImageBitmap} source
 * @returns {Promise<{width: number, height: number, rgba: Uint8ClampedArray, grey: boolean, alpha: "opaque" | "constant" | "varying"}>}
 */
export async function readPixels(source) {
  let bitmap = source;
  if (source instanceof Blob)
    try {
      // Orientation is applied by default; saying so would make older browsers fail on the option's new name.
      bitmap = await createImageBitmap(source, { premultiplyAlpha: "none" });
    } catch {
      throw new Error("This browser cannot open the file as an image. Try a JPEG, PNG, WebP or AVIF file.");
    }
  try {
    const { width, height } = bitmap;
    if (width * height > MOST_PIXELS)
      throw new Error(`The image has ${Math.round((width * height) / 1e6)} megapixels; this page takes up to ${MOST_PIXELS / 1e6}. Make it smaller, or use aethernet on your computer, which has no such limit.`);
    const rgba = new Uint8ClampedArray(4 * width * height);
    readByCanvas(bitmap, rgba);
    const kinds = look(rgba);
    // A canvas multiplies colours by alpha and divides again, which loses levels. WebGL does not.
    if (kinds.alpha !== "opaque") {
      await readByWebGL(bitmap, rgba);
      Object.assign(kinds, look(rgba));
    }
    return { width, height, rgba, ...kinds };
  } finally {
    if (bitmap !== source) bitmap.close();
  }
}

function readByCanvas(bitmap, rgba) {
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, Math.min(height, ROWS));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < height; top += ROWS) {
    const rows = Math.min(ROWS, height - top);
    context.clearRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, top, width, rows, 0, 0, width, rows);
    rgba.set(context.getImageData(0, 0, width, rows).data, 4 * width * top);
  }
}

async function readByWebGL(bitmap, rgba) {
  const gl = new OffscreenCanvas(1, 1).getContext("webgl");
  if (!gl) return; // the canvas's colours stay, a few levels off where the image is nearly transparent
  const { width, height } = bitmap;
  const most = Math.min(gl.getParameter(gl.MAX_TEXTURE_SIZE), 4096);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  for (let top = 0; top < height; top += ROWS)
    for (let left = 0; left < width; left += most) {
      const rows = Math.min(ROWS, height - top);
      const columns = Math.min(most, width - left);
      const part = await createImageBitmap(bitmap, left, top, columns, rows, { premultiplyAlpha: "none" });
      const texture = gl.createTexture();
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, part);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
      const read = new Uint8Array(4 * rows * columns);
      gl.readPixels(0, 0, columns, rows, gl.RGBA, gl.UNSIGNED_BYTE, read);
      for (let y = 0; y < rows; y++)
        rgba.set(read.subarray(4 * y * columns, 4 * (y + 1) * columns), 4 * ((top + y) * width + left));
      gl.deleteTexture(texture);
      part.close();
    }
  gl.getExtension("WEBGL_lose_context")?.loseContext();
}

/** Whether all pixels are grey, and what alpha does. */
function look(rgba) {
  let grey = true;
  let alpha = rgba[3] === 255 ? "opaque" : "constant";
  for (let index = 0; index < rgba.length; index += 4) {
    if (grey && (rgba[index] !== rgba[index + 1] || rgba[index] !== rgba[index + 2])) grey = false;
    if (rgba[index + 3] !== rgba[3]) alpha = "varying";
    if (!grey && alpha === "varying") break;
  }
  return { grey, alpha };
}

/**
 * Give fully transparent pixels the colours of their neighbours: nobody sees them, and black would bleed into the edge.
 * The pull-push scheme of aethernet/upscale/reading.py (Gortler et al. 1996, "The Lumigraph", section 3.4).
 */
export function fillHidden({ width, height, rgba }) {
  let [hidden, visible] = [false, false];
  for (let index = 3; index < rgba.length; index += 4) rgba[index] ? (visible = true) : (hidden = true);
  if (!hidden || !visible) return;
  const levels = [halve(width, height, 4, (at) => (rgba[4 * at + 3] ? [rgba[4 * at], rgba[4 * at + 1], rgba[4 * at + 2], 1] : null))];
  for (let last = levels[0]; ; last = levels.at(-1)) {
    const holes = last.values.some((value, index) => index % 4 === 3 && value === 0);
    if (!holes || Math.max(last.width, last.height) <= 1) break;
    const { values } = last;
    levels.push(halve(last.width, last.height, 4, (at) => values.subarray(4 * at, 4 * at + 4)));
  }
  let coarse = null;
  for (const level of levels.reverse()) {
    for (let y = 0; y < level.height; y++)
      for (let x = 0; x < level.width; x++) {
        const at = 4 * (y * level.width + x);
        const weight = level.values[at + 3];
        const below = coarse ? 4 * ((y >> 1) * coarse.width + (x >> 1)) : 0;
        for (let channel = 0; channel < 3; channel++)
          level.values[at + channel] =
            weight > 0 || !coarse ? level.values[at + channel] / Math.max(weight, 1e-6) : coarse.values[below + channel];
      }
    coarse = level;
  }
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const at = 4 * (y * width + x);
      if (rgba[at + 3]) continue;
      const below = 4 * ((y >> 1) * coarse.width + (x >> 1));
      for (let channel = 0; channel < 3; channel++) rgba[at + channel] = coarse.values[below + channel];
    }
}

/** Sums over blocks of 2 × 2, colours and weights. */
function halve(width, height, channels, read) {
  const [wide, tall] = [Math.ceil(width / 2), Math.ceil(height / 2)];
  const values = new Float32Array(channels * wide * tall);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const found = read(y * width + x);
      if (!found) continue;
      const at = channels * ((y >> 1) * wide + (x >> 1));
      for (let channel = 0; channel < channels; channel++) values[at + channel] += found[channel];
    }
  return { width: wide, height: tall, values };
}
