// Writing a PNG file row by row, so that a large result never has to be in memory whole.
// PNG specification (third edition): https://www.w3.org/TR/png-3/

const CRC = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});
const COLOUR_TYPES = { 1: 0, 2: 4, 3: 2, 4: 6 }; // grey, grey and alpha, RGB, RGBA
const BLOB_BYTES = 4 * 2 ** 20; // compressed bytes that are handed to the browser's own keeping at a time

function chunk(type, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  for (let index = 0; index < 4; index++) bytes[4 + index] = type.charCodeAt(index);
  bytes.set(data, 8);
  let crc = 0xffffffff;
  for (let index = 4; index < 8 + data.length; index++) crc = CRC[(crc ^ bytes[index]) & 255] ^ (crc >>> 8);
  view.setUint32(8 + data.length, ~crc >>> 0);
  return bytes;
}

/** 8-bit sRGB; `await add(band)` from top to bottom, then `await finish()` for the file. */
export class PngWriter {
  constructor(width, height, channels) {
    this.width = width;
    this.channels = channels;
    const header = new Uint8Array(13);
    const view = new DataView(header.buffer);
    view.setUint32(0, width);
    view.setUint32(4, height);
    header.set([8, COLOUR_TYPES[channels], 0, 0, 0], 8);
    this.parts = [Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10), chunk("IHDR", header), chunk("sRGB", Uint8Array.of(0))];
    this.blobs = [];
    this.waiting = 0;
    this.above = new Uint8Array(width * channels);
    const stream = new CompressionStream("deflate");
    this.writer = stream.writable.getWriter();
    this.collected = this.#collect(stream.readable.getReader());
  }

  async #collect(reader) {
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      this.parts.push(chunk("IDAT", read.value));
      this.waiting += read.value.length;
      if (this.waiting > BLOB_BYTES) {
        this.blobs.push(new Blob(this.parts));
        this.parts = [];
        this.waiting = 0;
      }
    }
  }

  /** @param {{rows: number, planes: Uint8ClampedArray}} band Levels, channels × rows × width. */
  async add({ rows, planes }) {
    const { channels, width } = this;
    const line = width * channels;
    const filtered = new Uint8Array(rows * (line + 1));
    let current = new Uint8Array(line);
    for (let y = 0; y < rows; y++) {
      for (let channel = 0; channel < channels; channel++) {
        const source = (channel * rows + y) * width;
        for (let x = 0; x < width; x++) current[x * channels + channel] = planes[source + x];
      }
      const start = y * (line + 1);
      filtered[start] = 4; // Paeth
      for (let x = 0; x < line; x++) {
        const a = x < channels ? 0 : current[x - channels];
        const b = this.above[x];
        const c = x < channels ? 0 : this.above[x - channels];
        const pa = Math.abs(b - c);
        const pb = Math.abs(a - c);
        const pc = Math.abs(a + b - 2 * c);
        filtered[start + 1 + x] = current[x] - (pa <= pb && pa <= pc ? a : pb <= pc ? b : c);
      }
      [this.above, current] = [current, this.above];
    }
    await this.writer.write(filtered);
  }

  async finish() {
    await this.writer.close();
    await this.collected;
    return new Blob([...this.blobs, ...this.parts, chunk("IEND", new Uint8Array(0))], { type: "image/png" });
  }

  /** Give up; nothing of the file is kept. */
  async abort() {
    await this.writer.abort().catch(() => {});
    await this.collected.catch(() => {});
  }
}
