// Cutting an image into tiles so that the cuts leave no trace: aethernet/upscale/tiles.py, line for line.
// A tile reads `margin` pixels more than it keeps on every side, as many as the network sees; networks that look at
// the whole image are faded into each other over `feather` pixels instead. Rows come out in order, a band at a time.

export const FEATHER = 16;
export const UNKNOWN_RADIUS = 32;
const LEAST_WINDOW = 256 ** 2;
const OUT_OF_MEMORY =
  /out of memory|bad allocation|bad_alloc|failed to allocate|can't allocate|cannot allocate|outofmemory|not enough memory|allocation failed/i;

/** How neighbours meet, from what is known about the network. */
export function cutOf({ receptive_radius: radius, pools_globally: pools }) {
  const feather = pools ? FEATHER : 0;
  return { margin: (radius ?? UNKNOWN_RADIUS) + feather, feather };
}

/** Smallest side of a tile that still makes headway, and whose two fading edges stay apart. */
export const floorOf = (cut) => 2 * cut.margin + Math.max(16, 3 * cut.feather);

/** How many windows of at most `size` it takes, and the size with which they end where `length` does. */
function sharedOut(length, size, margin) {
  if (length <= size) return [1, length];
  const count = Math.ceil((length - 2 * margin) / (size - 2 * margin));
  return [count, Math.ceil((length - 2 * margin) / count) + 2 * margin];
}

/** Windows of one size over `length` pixels: each reads [start, stop) and keeps [first, last). */
export function spans(length, size, margin, smallest = 1) {
  const [count, shared] = sharedOut(length, size, margin);
  const step = shared - 2 * margin;
  const window = Math.max(shared, Math.min(smallest, length));
  return Array.from({ length: count }, (_, index) => {
    const start = Math.min(index * step, length - window);
    return {
      start,
      stop: start + window,
      first: index ? index * step + margin : 0,
      last: index < count - 1 ? (index + 1) * step + margin : length,
    };
  });
}

/** The window for an image: whole if it has at most `pixels`, else the one with which the fewest are computed. */
export function sizeTiles(height, width, pixels, cut, overlapCost = Infinity) {
  if (height * width <= pixels) return { height, width };
  if (cut.margin && Number.isFinite(overlapCost)) {
    const worthwhile = Math.ceil((2 * cut.margin) / (1 - overlapCost ** -0.5)) ** 2;
    pixels = Math.min(pixels, Math.max(worthwhile, LEAST_WINDOW));
  }
  const floor = floorOf(cut);
  pixels = Math.max(pixels, floor ** 2);
  let best = null;
  for (let columns = 1; columns <= width; columns++) {
    const asked = Math.max(floor, Math.ceil((width - 2 * cut.margin) / columns) + 2 * cut.margin);
    const [across, wide] = sharedOut(width, asked, cut.margin);
    const room = Math.min(height, Math.floor(pixels / wide));
    if (room === height || room >= floor) {
      const [down, tall] = sharedOut(height, room, cut.margin);
      const cost = down * tall * across * wide;
      if (!best || cost < best.cost) best = { cost, height: tall, width: wide };
    }
    if (room === height || wide <= floor) break; // narrower windows only overlap more
  }
  return { height: best.height, width: best.width };
}

/** How many tiles an image takes. */
export function countTiles(height, width, size, cut, smallest = [1, 1]) {
  return (
    spans(height, size.height, cut.margin, smallest[0]).length *
    spans(width, size.width, cut.margin, smallest[1]).length
  );
}

/** The longer side halved, never below `floor`. */
function halved(size, floor) {
  if (Math.max(size.height, size.width) <= floor)
    throw new Error(`There is not enough memory for a tile of ${size.width}×${size.height} pixels. Close other tabs, or choose another way to run the network.`);
  return size.height >= size.width
    ? { ...size, height: Math.max(floor, Math.floor(size.height / 2)) }
    : { ...size, width: Math.max(floor, Math.floor(size.width / 2)) };
}

/** Rises from just above 0 to just below 1, so that it and its mirror image add up to one. */
const ramp = (index, length) => (index + 0.5) / length;

/**
 * Upscale an image band by band.
 *
 * @param {{height: number, width: number, channels: number}} image
 * @param {(top: number, bottom: number, left: number, right: number) => Promise<Float32Array>} infer
 *   Runs the network on a window: planes of `channels` × s·h × s·w values, 1 is white.
 * @param {{scale: number, cut: {margin: number, feather: number}, size: {height: number, width: number},
 *   smallest?: number[], onTile?: (done: {pixels: number}) => void, onHalved?: (size: object) => void}} options
 * @yields {{rows: number, planes: Uint8ClampedArray}} Levels, `channels` × rows × s·W, from top to bottom.
 */
export async function* bands({ height, width, channels }, infer, options) {
  const { scale, cut, smallest = [1, 1], onTile = () => {}, onHalved = () => {} } = options;
  const { margin, feather } = cut;
  const first = spans(height, options.size.height, margin, smallest[0])[0];
  let size = { ...options.size, height: first.stop }; // bands of equal height
  let row = 0;
  let pending = null;
  while (row < height) {
    const top = Math.max(0, Math.min(row - margin, height - size.height));
    const bottom = Math.min(height, top + size.height);
    const last = bottom === height ? height : bottom - margin;
    const before = row ? feather : 0;
    const after = last < height ? feather : 0;
    let band;
    try {
      band = await oneBand(top, bottom, row - before, last + after);
    } catch (error) {
      if (!OUT_OF_MEMORY.test(String(error?.message ?? error))) throw error;
      size = halved(size, floorOf(cut));
      onHalved(size);
      continue;
    }
    if (!feather) yield band;
    else {
      const line = width * scale;
      if (pending) mix(band, pending, line);
      const kept = band.rows - 2 * after * scale;
      pending = after ? rowsOf(band, kept, band.rows, line) : null;
      yield levels(rowsOf(band, 0, kept, line));
    }
    row = last;
  }

  /** One row of tiles; floats where cuts are feathered, levels otherwise. */
  async function oneBand(top, bottom, keepsFrom, keepsTo) {
    const rows = (keepsTo - keepsFrom) * scale;
    const upper = (keepsFrom - top) * scale;
    const line = width * scale;
    const Kind = feather ? Float32Array : Uint8ClampedArray;
    const planes = new Kind(channels * rows * line);
    for (const span of spans(width, size.width, margin, smallest[1])) {
      const output = await infer(top, bottom, span.start, span.stop);
      const before = span.first ? feather : 0;
      const after = span.last < width ? feather : 0;
      const left = (span.first - before) * scale;
      const right = (span.last + after) * scale;
      const offset = span.start * scale;
      const wide = (span.stop - span.start) * scale;
      const tall = (bottom - top) * scale;
      for (let channel = 0; channel < channels; channel++)
        for (let y = 0; y < rows; y++) {
          const source = (channel * tall + upper + y) * wide - offset;
          const target = (channel * rows + y) * line;
          if (!feather) {
            // Clamped arrays round half to even, as NumPy does.
            for (let x = left; x < right; x++) planes[target + x] = Math.fround(output[source + x] * 255);
            continue;
          }
          for (let x = left; x < right; x++) {
            let value = output[source + x];
            if (x < left + 2 * before * scale) value *= ramp(x - left, 2 * before * scale);
            if (x >= right - 2 * after * scale)
              value *= 1 - ramp(x - (right - 2 * after * scale), 2 * after * scale);
            planes[target + x] += value;
          }
        }
      onTile({ pixels: (bottom - top) * (span.stop - span.start) });
    }
    return { rows, planes };
  }

  /** Fade the rows that the band above left over into the top of this one. */
  function mix(band, above, line) {
    for (let channel = 0; channel < channels; channel++)
      for (let y = 0; y < above.rows; y++) {
        const share = ramp(y, above.rows);
        const source = (channel * above.rows + y) * line;
        const target = (channel * band.rows + y) * line;
        for (let x = 0; x < line; x++)
          band.planes[target + x] = above.planes[source + x] * (1 - share) + band.planes[target + x] * share;
      }
  }

  function rowsOf(band, from, to, line) {
    const planes = new Float32Array(channels * (to - from) * line);
    for (let channel = 0; channel < channels; channel++)
      planes.set(
        band.planes.subarray((channel * band.rows + from) * line, (channel * band.rows + to) * line),
        channel * (to - from) * line,
      );
    return { rows: to - from, planes };
  }

  function levels({ rows, planes }) {
    return { rows, planes: Uint8ClampedArray.from(planes, (value) => Math.fround(value * 255)) };
  }
}
