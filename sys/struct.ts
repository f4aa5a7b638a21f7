/** Scalar types of the kernel's uAPI headers (`__u8` … `__s64`), little-endian. */
export type Scalar = 'u8' | 'u16' | 'u32' | 'u64' | 's8' | 's16' | 's32' | 's64';

/** Type of a field: a scalar, a structure, or an array of either. */
export type Field = Scalar | Layout<Fields> | readonly [Scalar | Layout<Fields>, number];
/** A structure's fields by C name, in order. */
export type Fields = Readonly<Record<string, Field>>;

/** The TypeScript type of a scalar. */
export type ScalarValue<S extends Scalar> = S extends 'u64' | 's64' ? bigint : number;
/** The TypeScript type of a field. */
export type FieldValue<F> = F extends Scalar
  ? ScalarValue<F>
  : F extends Layout<infer G>
    ? StructValue<G>
    : F extends readonly [infer E, number]
      ? E extends 'u8'
        ? Uint8Array
        : FieldValue<E>[]
      : never;

/** A structure's fields as TypeScript values: 64-bit scalars are bigint, `u8` arrays are Uint8Array. */
export type StructValue<F extends Fields> = { -readonly [K in keyof F]: FieldValue<F[K]> };

/** Layout of a C structure, with functions to encode and decode it. */
export interface Layout<F extends Fields> {
  /** C name: `struct kvm_regs`. */
  readonly cName: string;
  /** Header that declares it: `asm/kvm.h`. */
  readonly header: string;
  /** First kernel version whose header has this layout; undefined if the headers of all supported distributions do. */
  readonly since: string | undefined;
  /** sizeof, in bytes. */
  readonly size: number;
  /** _Alignof, in bytes. */
  readonly alignment: number;
  /** The fields as they were declared. */
  readonly fields: F;
  /** offsetof of each field, in bytes. */
  readonly offsets: { readonly [K in keyof F]: number };
  /**
   * Returns a zeroed buffer with the given fields set, plus `extra` bytes for a flexible array at the end.
   * @throws RangeError for a value that its field cannot hold
   */
  encode(values?: Partial<StructValue<F>>, extra?: number): Uint8Array<ArrayBuffer>;
  /** Writes the given fields to `bytes` at `at`; the others keep their values. @throws RangeError as {@link encode} */
  write(bytes: Uint8Array, values: Partial<StructValue<F>>, at?: number): void;
  /** @throws RangeError if `bytes` ends inside the structure */
  decode(bytes: Uint8Array, at?: number): StructValue<F>;
}

/** The value type of a layout: `StructOf<typeof Regs>`. */
export type StructOf<L> = L extends Layout<infer F> ? StructValue<F> : never;

const scalarSize: Readonly<Record<Scalar, number>> = {
  u8: 1,
  u16: 2,
  u32: 4,
  u64: 8,
  s8: 1,
  s16: 2,
  s32: 4,
  s64: 8,
};

const readers: { readonly [S in Scalar]: (view: DataView, at: number) => number | bigint } = {
  u8: (view, at) => view.getUint8(at),
  u16: (view, at) => view.getUint16(at, true),
  u32: (view, at) => view.getUint32(at, true),
  u64: (view, at) => view.getBigUint64(at, true),
  s8: (view, at) => view.getInt8(at),
  s16: (view, at) => view.getInt16(at, true),
  s32: (view, at) => view.getInt32(at, true),
  s64: (view, at) => view.getBigInt64(at, true),
};

const writers: { readonly [S in Scalar]: (view: DataView, at: number, value: never) => void } = {
  u8: (view, at, value: number) => view.setUint8(at, value),
  u16: (view, at, value: number) => view.setUint16(at, value, true),
  u32: (view, at, value: number) => view.setUint32(at, value, true),
  u64: (view, at, value: bigint) => view.setBigUint64(at, value, true),
  s8: (view, at, value: number) => view.setInt8(at, value),
  s16: (view, at, value: number) => view.setInt16(at, value, true),
  s32: (view, at, value: number) => view.setInt32(at, value, true),
  s64: (view, at, value: bigint) => view.setBigInt64(at, value, true),
};

/** DataView would keep the low bits of anything. A negative number in an unsigned field is its two's complement. */
function isInRange(scalar: Scalar, value: unknown): boolean {
  const bits = 8 * scalarSize[scalar];
  if (bits === 64)
    return (
      typeof value === 'bigint' && (BigInt.asUintN(64, value) === value || BigInt.asIntN(64, value) === value)
    );
  return Number.isInteger(value) && (value as number) >= -(2 ** (bits - 1)) && (value as number) < 2 ** bits;
}

type Element = Scalar | Layout<Fields>;
const isArray = (field: Field): field is readonly [Element, number] => Array.isArray(field);
const sizeOfElement = (element: Element): number =>
  typeof element === 'string' ? scalarSize[element] : element.size;
const alignmentOf = (element: Element): number =>
  typeof element === 'string' ? scalarSize[element] : element.alignment;

function readElement(element: Element, bytes: Uint8Array, view: DataView, at: number): unknown {
  return typeof element === 'string' ? readers[element](view, at) : element.decode(bytes, at);
}

function writeElement(
  element: Element,
  name: string,
  bytes: Uint8Array,
  view: DataView,
  at: number,
  value: unknown,
): void {
  if (typeof element === 'string') {
    if (!isInRange(element, value)) throw new RangeError(`${name}: ${value} does not fit in ${element}`);
    writers[element](view, at, value as never);
  } else element.write(bytes, value as Partial<StructValue<Fields>>, at);
}

function readField(field: Field, bytes: Uint8Array, view: DataView, at: number): unknown {
  if (!isArray(field)) return readElement(field, bytes, view, at);
  const [element, count] = field;
  if (element === 'u8') return bytes.slice(at, at + count);
  const size = sizeOfElement(element);
  return Array.from({ length: count }, (_, i) => readElement(element, bytes, view, at + i * size));
}

function writeField(
  field: Field,
  name: string,
  bytes: Uint8Array,
  view: DataView,
  at: number,
  value: unknown,
): void {
  if (!isArray(field)) {
    writeElement(field, name, bytes, view, at, value);
    return;
  }
  const [element, count] = field;
  const values = value as ArrayLike<unknown>;
  if (values.length > count) throw new RangeError(`${name} holds ${count} elements, not ${values.length}`);
  const size = sizeOfElement(element);
  for (let i = 0; i < values.length; i++) writeElement(element, name, bytes, view, at + i * size, values[i]);
}

/**
 * Declares a C structure. Size, offsets and TypeScript type follow from the fields by the x86-64 ABI. The
 * `uapi.test.ts` of each layer compares every declaration with the C header.
 * @param options `packed` and `align` as the C attributes of the structure; `since` names the first kernel version
 *   whose header has this layout
 */
export function struct<const F extends Fields>(
  cName: string,
  header: string,
  fields: F,
  options: { readonly packed?: boolean; readonly since?: string; readonly align?: number } = {},
): Layout<F> {
  const offsets: Record<string, number> = {};
  let end = 0;
  let alignment = options.align ?? 1;
  for (const [name, field] of Object.entries(fields)) {
    const [element, count] = isArray(field) ? field : ([field, 1] as const);
    const own = options.packed ? 1 : alignmentOf(element);
    alignment = Math.max(alignment, own);
    end = Math.ceil(end / own) * own;
    offsets[name] = end;
    end += sizeOfElement(element) * count;
  }
  const size = Math.ceil(end / alignment) * alignment;
  const layout: Layout<F> = {
    cName,
    header,
    since: options.since,
    size,
    alignment,
    fields,
    offsets: offsets as Layout<F>['offsets'],
    encode(values = {}, extra = 0) {
      const bytes = new Uint8Array(size + extra);
      layout.write(bytes, values);
      return bytes;
    },
    write(bytes, values, at = 0) {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      for (const [name, value] of Object.entries(values)) {
        const field = fields[name];
        if (field === undefined) throw new TypeError(`${cName} has no field ${name}`);
        if (value !== undefined)
          writeField(field, `${cName}.${name}`, bytes, view, at + (offsets[name] as number), value);
      }
    },
    decode(bytes, at = 0) {
      if (at < 0 || at + size > bytes.byteLength) {
        throw new RangeError(`${cName} needs ${size} bytes at ${at}, but there are ${bytes.byteLength}`);
      }
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const value: Record<string, unknown> = {};
      for (const [name, field] of Object.entries(fields)) {
        value[name] = readField(field, bytes, view, at + (offsets[name] as number));
      }
      return value as StructValue<F>;
    },
  };
  return layout;
}
